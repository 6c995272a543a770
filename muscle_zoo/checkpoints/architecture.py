"""A recipe's architecture at its image size: what it is built with, and the sizes that it takes."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from timm.layers import PatchEmbed
from torch import nn

from ..data import DataSetInfo
from ..data.datasets import SIZES
from ..errors import InputError, one_line
from ..methods import trains_classifier
from ..recipes import Recipe

__all__ = ["build_arguments", "require_fit"]

_STEP = 32  # pixels between sizes that are tried, where an architecture has no patches
_TRIES = 8  # sizes that are tried in each direction
_REFUSALS = (RuntimeError, ValueError, AssertionError, AttributeError, TypeError, IndexError, ZeroDivisionError)


def build_arguments(recipe: Recipe, info: DataSetInfo) -> dict[str, Any]:
    """What ``timm.create_model`` gets to build a recipe's network, with weights and without.

    An architecture of one size (most vision transformers) is built for the size of the images, by ``img_size``; timm
    resamples the position embeddings of pretrained weights to it.

    Args:
        recipe: Architecture, ``global_pool`` and ``drop_rate``.
        info: Classes and images of the data set.

    Raises:
        InputError: The architecture cannot be built for them; sizes near by that it takes are named.

    Example:
        >>> from muscle_zoo import get_recipe
        >>> from muscle_zoo.data import dataset_info
        >>> build_arguments(get_recipe("vit_tiny_patch16_224.muscle_cifar10_40"), dataset_info("cifar10"))
        {'num_classes': 10, 'in_chans': 3, 'drop_rate': 0.0, 'img_size': 32}
    """
    channels, height, width = info.input_size
    classes = _classes(recipe, info)
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "drop_rate": recipe.drop_rate}
    cfg = timm.get_pretrained_cfg(recipe.arch)
    if cfg is not None and cfg.fixed_input_size:
        if problem := _why_not(recipe.arch, arguments | {"img_size": (height, width)}, (height, width)):
            if "img_size" in problem and "argument" in problem:
                problem = "it takes {}x{} only".format(*cfg.input_size[1:])
            raise _refusal(recipe, info, problem, arguments)
        arguments["img_size"] = height if height == width else (height, width)
    if recipe.global_pool:
        arguments |= _pooling(recipe, arguments)
    return arguments


def _classes(recipe: Recipe, info: DataSetInfo) -> int:
    """Of the classifier; 0 where the method trains none."""
    return info.num_classes if trains_classifier(recipe.method) else 0


def _pooling(recipe: Recipe, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments for a recipe's pooling.

    timm's vision transformers that average tokens put their last norm behind the average, under another name. There
    pretrained weights have nothing for it, so it stays where it was: before the pooling.
    """
    pooling: dict[str, Any] = {"global_pool": recipe.global_pool}
    if problem := _why_not(recipe.arch, arguments | pooling):
        raise InputError(
            f"global_pool={recipe.global_pool} does not go with arch={recipe.arch} ({problem}); leave it out, or give "
            "another (avg, token, map, ... as timm has them)"
        )
    own = _tensor_names(recipe.arch, arguments)
    kept = pooling | {"fc_norm": False}
    if own - _tensor_names(recipe.arch, arguments | pooling) and not _why_not(recipe.arch, arguments | kept):
        lost = [len(own - _tensor_names(recipe.arch, arguments | args)) for args in (pooling, kept)]
        return kept if lost[1] < lost[0] else pooling
    return pooling


def _tensor_names(arch: str, arguments: dict[str, Any]) -> set[str]:
    with torch.device("meta"):
        return set(timm.create_model(arch, **arguments).state_dict())


def _why_not(arch: str, arguments: dict[str, Any], size: tuple[int, int] = (0, 0)) -> str:
    """Why an architecture cannot be built like this; empty where it can. No memory is taken for its weights."""
    try:
        with torch.device("meta"):
            return _cut_patches(timm.create_model(arch, **arguments), size)
    except _REFUSALS as error:
        return one_line(error) or type(error).__name__


def _cut_patches(model: nn.Module, size: tuple[int, int]) -> str:
    """Why a network's patches do not cover images of a size; empty where they do, or it has none."""
    patches = getattr(model, "patch_embed", None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad:
        height, width = patches.patch_size
        # Built for a size that is no multiple, it would leave out the rows and columns at the end, and say nothing.
        if size[0] % height or size[1] % width:
            return f"its patches are {height}x{width}, so a side is a multiple of that"
    return ""


def require_fit(model: nn.Module, recipe: Recipe, info: DataSetInfo) -> None:
    """Runs an image through a network, for most of timm's do not say what sizes they take.

    Args:
        model: Built with :func:`build_arguments`; its mode is training afterwards.
        recipe: Of it.
        info: The images.

    Raises:
        InputError: It does not take the data set's images; sizes near by that it takes are named.
    """
    cfg = cast(dict[str, Any], model.pretrained_cfg)
    least = (cfg.get("min_input_size") or (1, 1, 1))[1:]
    if min(info.input_size[1:]) < min(least):
        problem = f"it takes {least[0]}x{least[1]} and more"
    else:
        problem = _misfit(model, info.input_size, _classes(recipe, info))
    model.train()
    if problem:
        arguments = {"num_classes": _classes(recipe, info), "in_chans": info.input_size[0]}
        raise _refusal(recipe, info, problem, arguments)


def _misfit(model: nn.Module, input_size: tuple[int, int, int], num_classes: int) -> str:
    """Why a network does not take images of a size; empty where it does."""
    if problem := _cut_patches(model, input_size[1:]):
        return problem
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(1, *input_size, device=device)).shape)
    except _REFUSALS as error:
        return one_line(error) or type(error).__name__
    right = shape == (1, num_classes or shape[-1])  # without a classifier it gives features
    return "" if right else f"its output has the shape {shape}"


def _refusal(recipe: Recipe, info: DataSetInfo, problem: str, arguments: dict[str, Any]) -> InputError:
    near = " or ".join(f"image_size={side}" for side in _sides_near_by(recipe.arch, info.input_size, arguments))
    images = "{}x{} images of {}".format(*info.input_size[1:], info.name)
    remedy = f"give {near}, or another arch" if near else "give another arch"
    return InputError(f"arch={recipe.arch} does not take the {images}: {problem}; {remedy}")


def _sides_near_by(arch: str, input_size: tuple[int, int, int], arguments: dict[str, Any]) -> list[int]:
    """The largest side below a size, and the smallest above, of those tried that an architecture takes."""
    cfg, side = timm.get_pretrained_cfg(arch), max(input_size[1:])
    with torch.device("meta"):
        patches = getattr(timm.create_model(arch), "patch_embed", None)
    step = max(patches.patch_size) if isinstance(patches, PatchEmbed) else _STEP
    fixed = tuple(cfg.input_size[1:]) if cfg is not None and cfg.fixed_input_size else None

    def takes(side: int) -> bool:
        own: dict[str, Any] = {"img_size": side} if fixed not in (None, (side, side)) else {}
        try:
            with torch.device("meta"):
                model = timm.create_model(arch, **arguments, **own)
                return not _misfit(model, (input_size[0], side, side), arguments["num_classes"])
        except _REFUSALS:
            return False

    least = max(cfg.min_input_size[1:]) if cfg is not None and cfg.min_input_size else 1
    start = side // step * step
    below = range(start if start < side else start - step, start - _TRIES * step, -step)
    above = [least] if side < least else range(start + step, start + _TRIES * step, step)
    low, high = max(SIZES[0], least), SIZES[1]
    fitting = [next((s for s in sides if low <= s <= high and takes(s)), 0) for sides in (below, above)]
    return [side for side in fitting if side]
