"""From stored images to what a network takes; also how an evaluation and an exported model see them."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .catalog import DataSetInfo


def normalize(images: Tensor, info: DataSetInfo) -> Tensor:
    """Turns uint8 images, or images in 0..1, into what a network takes: zero mean, unit variance per channel.

    Images of another size than ``info.input_size`` are resized first (bicubic, as Pillow does it): those of a data set
    with small images and a larger ``image_size`` are stored and augmented as they are.
    """
    mean, std = (_per_channel(values, images.device) for values in (info.mean, info.std))
    if images.dtype == torch.uint8:
        resized = _resize(images.float().div_(255.0), info.input_size[1:])
        return resized.sub_(mean).div_(std)  # in place: its cost is the memory it moves
    return (_resize(images, info.input_size[1:]) - mean).div_(std)


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    # Pillow takes the two directions one after the other, and clips in between; `create_transform` resizes by Pillow.
    for step in ((images.shape[-2], size[1]), size):
        images = F.interpolate(images, step, mode="bicubic", antialias=True).clamp_(0.0, 1.0)
    return images


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Cached: a copy to a GPU would wait for it, each time.
    with torch.inference_mode(False):  # nor would a tensor of an evaluation let gradients through later
        return torch.tensor(values, device=device).view(1, -1, 1, 1)
