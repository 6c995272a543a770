"""Models, transforms and facts by name: what ``import muscle_zoo`` offers."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from timm.data import create_transform as timm_transform
from timm.data import resolve_data_config
from torch import nn

from . import registry, weights
from .data.datasets import dataset_info
from .data.images import upright
from .errors import WeightsError, near
from .recipes import parse_name, recipe_names

__all__ = ["ModelInfo", "create_model", "create_transform", "list_models", "model_info"]


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a named model.

    Attributes:
        name: ``{arch}.{method}_{dataset}_{labels}[_{variant}]``.
        arch: timm architecture.
        method: How it is trained.
        dataset: What on.
        labels: Label budget.
        pretrained: Whether there are weights.
        top1: Measured accuracy of these weights on the test images, 0 to 1; None without weights.
        seed: Seed of these weights; None without.
        input_size: Channels, height, width.
        class_names: One per class.
        sha256: Of the weights; None without.
        origin: Where the weights are; None without.
    """

    name: str
    arch: str
    method: str
    dataset: str
    labels: int
    pretrained: bool
    top1: float | None
    seed: int | None
    input_size: tuple[int, int, int]
    class_names: tuple[str, ...]
    sha256: str | None
    origin: str | None


def list_models(filter: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the zoo.

    Args:
        filter: A wildcard such as ``*digits*``.
        pretrained: Only checkpoints, whose weights can be had; otherwise the named recipes too.

    Returns:
        Sorted names for :func:`create_model` and, as recipes, for ``train.py``.
    """
    names = set(registry.checkpoint_names()) | (set() if pretrained else set(recipe_names()))
    return sorted(fnmatch.filter(names, filter))


def create_model(name: str, pretrained: bool = False, *, source: str | None = None, **kwargs: Any) -> nn.Module:
    """Creates a model of the zoo, or any other of timm's.

    Args:
        name: A name of :func:`list_models`, ``NAME@revision``, ``hf-hub:REPO[@revision]``, ``local-dir:PATH``, or a
            plain timm architecture.
        pretrained: Load the weights, after comparing their sha256. Without them the architecture is built for the
            classes and channels of the name's data set, with random weights.
        source: ``hub`` to go to the Hugging Face Hub although the weights are on disk.
        **kwargs: As in ``timm.create_model``: num_classes, in_chans, features_only, drop_rate, ...

    Returns:
        The model, in training mode as timm leaves it.

    Raises:
        WeightsError: There are no such weights, or they are damaged or not the promised ones.
        InputError: The name is unknown.

    Example:
        >>> model = create_model("cnn4.muscle_digits_10", pretrained=True)  # doctest: +SKIP
    """
    if not pretrained:
        return _create_without_weights(name, kwargs)
    if _is_arch(name):
        tags = [other for other in registry.checkpoint_names() if other.partition(".")[0] == name]
        raise WeightsError(
            f"{name!r} is an architecture; name a checkpoint of it: {', '.join(tags) or 'there is none yet'}"
        )
    if source is None and _is_timms(name):
        return timm.create_model(name, pretrained=True, **kwargs)
    checkpoint = weights.resolve(name, source)
    arch = _known_arch(checkpoint.config, checkpoint.origin)
    cfg = {**registry.timm_cfg(checkpoint.config), "file": str(checkpoint.weights)}
    kwargs = {**checkpoint.config.get("model_args", {}), **kwargs}
    try:
        return timm.create_model(arch, pretrained=True, pretrained_cfg=cfg, **kwargs)
    except (TypeError, RuntimeError, LookupError, AttributeError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{checkpoint.origin}: {arch} cannot be built from it ({first_line})") from error


def _is_arch(name: str) -> bool:
    return "." not in name and timm.is_model(name)  # timm takes ARCH.ANYTHING for a model too


def _is_timms(name: str) -> bool:
    return timm.is_model_pretrained(name) and name not in registry.checkpoint_names()


def _known_arch(config: dict[str, Any], origin: str) -> str:
    arch = config["architecture"]
    if not timm.is_model(arch):
        hint = near(arch, timm.list_models())
        raise WeightsError(f"{origin}/{registry.CONFIG_FILE}: architecture {arch!r} is unknown; {hint}")
    return arch


def _create_without_weights(name: str, kwargs: dict[str, Any]) -> nn.Module:
    if _is_arch(name) or _is_timms(name):
        return timm.create_model(name, **kwargs)
    arch, cfg, model_args = _describe(name)
    kwargs = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0], **model_args, **kwargs}
    return timm.create_model(arch, pretrained_cfg_overlay=cfg, **kwargs)


def _describe(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, timm cfg (classes, channels, mean, std) and model arguments of a checkpoint or a recipe."""
    if name.startswith((weights.HF_HUB, weights.LOCAL_DIR)):
        checkpoint = weights.resolve(name)
        config, origin = checkpoint.config, checkpoint.origin
    elif (folder := registry.find_card(name)) is not None:
        config, origin = registry.read_config(folder), str(folder)
    else:
        parts = parse_name(name)
        return parts["arch"], dataset_info(parts["dataset"]).timm_cfg(), {}
    return _known_arch(config, origin), registry.timm_cfg(config), config.get("model_args", {})


def create_transform(model: str | nn.Module, is_training: bool = False, **kwargs: Any) -> Callable[[Any], Any]:
    """The preprocessing a model expects: a PIL image of any mode in, a normalised tensor ``(C, H, W)`` out.

    The image is turned upright as its EXIF says and made grey or RGB, as in training.

    Args:
        model: A name, or a model made by :func:`create_model`.
        is_training: timm's training augmentation instead.
        **kwargs: As in ``timm.data.create_transform``.

    Returns:
        The transform.

    Raises:
        InputError: The name is unknown.
    """
    if not isinstance(model, str):
        pretrained_cfg = model.pretrained_cfg
    elif _is_arch(model) or _is_timms(model):
        pretrained_cfg = timm.get_pretrained_cfg(model).to_dict()
    else:
        pretrained_cfg = _describe(model)[1]
    cfg = resolve_data_config({}, pretrained_cfg=pretrained_cfg)
    transform = timm_transform(**{**cfg, **kwargs}, is_training=is_training)
    from torchvision.transforms import Compose  # pictures from disk are of any mode, and some lie on their side

    return Compose([partial(upright, channels=cfg["input_size"][0]), *transform.transforms])


def model_info(name: str) -> ModelInfo:
    """Facts about a model, without building it.

    Args:
        name: A name of :func:`list_models`, or a recipe's.

    Returns:
        The facts.

    Raises:
        InputError: The name is unknown, or its card is damaged.
    """
    folder = registry.find_card(name)
    if folder is not None:
        config = registry.read_config(folder)
        block = config.get(registry.BLOCK, {})
        try:
            return ModelInfo(
                name=name,
                arch=config["architecture"],
                method=block["method"],
                dataset=block["dataset"],
                labels=block["labels"],
                pretrained=True,
                top1=block["metrics"]["top1"],
                seed=block["seed"],
                input_size=tuple(config["pretrained_cfg"]["input_size"]),
                class_names=tuple(config["label_names"]),
                sha256=block["weights_sha256"],
                origin=str(folder),
            )
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{folder / registry.CONFIG_FILE} lacks {error}; download or export it again") from None
    parts = parse_name(name)
    info = dataset_info(parts["dataset"])
    pin = registry.pinned().get(name)
    return ModelInfo(
        name=name,
        arch=parts["arch"],
        method=parts["method"],
        dataset=parts["dataset"],
        labels=parts["labels"],
        pretrained=pin is not None,
        top1=None,
        seed=None,
        input_size=info.input_size,
        class_names=info.class_names,
        sha256=pin["sha256"] if pin else None,
        origin=f"{weights.HF_HUB}{pin['repo']}@{pin['revision']}" if pin else None,
    )
