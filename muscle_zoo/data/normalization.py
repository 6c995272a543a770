"""From stored images to what a network takes; also how an evaluation and an exported model see them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .catalog import DataSetInfo


def normalize(images: Tensor, info: DataSetInfo) -> Tensor:
    """Turns uint8 images, or images in 0..1, into what a network takes: zero mean, unit variance per channel."""
    mean, std = (_per_channel(values, images.device) for values in (info.mean, info.std))
    if images.dtype == torch.uint8:
        return images.float().div_(255.0).sub_(mean).div_(std)  # in place: its cost is the memory it moves
    return (images - mean).div_(std)


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Cached: a copy to a GPU would wait for it, each time.
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
