"""What pretext tasks do to images, to each by a level of its own: a network is asked which it was."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

LEVELS = 4  # of each of them


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Turns square images counterclockwise by 0 to 3 quarters, each by its own (RotNet, arXiv 1803.07728).

    Args:
        images: ``(n, C, H, H)``.
        quarters: ``(n,)`` int64, 0 to 3.

    Raises:
        InputError: The images are not square.

    Example:
        >>> turn(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1])).tolist()
        [[[[2, 4], [1, 3]]]]
    """
    if images.shape[2] != images.shape[3]:
        raise InputError(f"images of {images.shape[2]}x{images.shape[3]} are not square, and cannot be turned")
    turned = torch.stack([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned[quarters, torch.arange(len(images), device=images.device)]


def change_sharpness(images: Tensor, level: Tensor) -> Tensor:
    """Level 0 smooths an image, 1 leaves it, 2 and 3 sharpen it: ``smooth + level (image - smooth)``.

    The smoothed image is Pillow's: a pixel counts 5 and each of its eight neighbors 1; at the rim the rim is repeated.
    """
    kernel = images.new_ones(3, 3)
    kernel[1, 1] = 5.0
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 3, 3)
    smooth = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
    return smooth + level.to(images.dtype).view(-1, 1, 1, 1) * (images - smooth)


def solarize(images: Tensor, level: Tensor) -> Tensor:
    """Level 0 leaves an image; 1, 2 and 3 invert what is brighter than 3/4, 1/2 and 1/4 of the way to its maximum."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    threshold = high - (high - low) * level.to(images.dtype).view(-1, 1, 1, 1) / LEVELS
    return torch.where(images > threshold, low + high - images, images)
