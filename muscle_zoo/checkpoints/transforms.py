"""The preprocessing of models, by name."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from timm.data import create_transform as timm_transform
from timm.data import resolve_data_config
from torch import nn

from ..data.decoding import upright
from ..errors import InputError
from .card import pretrained_cfg_of
from .factory import pretrained_cfg_by_name

__all__ = ["create_transform"]


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
    # 3 of gray, or gray of 3, or timm's own of 3 where a card says none: every channel is treated as the average one.
    for key in ("mean", "std"):
        if channels != cfg["input_size"][0] or len(cfg[key]) not in (1, channels):
            cfg[key] = (statistics.fmean(cfg[key]),) * channels
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
