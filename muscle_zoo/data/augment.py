"""Augmentation in batches, where the images are.

A policy is text: operations joined by ``+``, applied in order to images in 0..1, such as
``affine(30,0.2,0.25)+contrast(0.4)+cutout(0.4)``; ``none`` leaves the images alone. Every operation turns uniform
numbers, drawn per image elsewhere, into its parameters: what it does is a pure function of images and numbers.
"""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, near
from .randaugment import RandAugment


class Operation(Protocol):
    """One step of a policy."""

    @property
    def draws(self) -> int:
        """Uniform numbers it takes per image."""
        ...

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Applies it to images ``(n, C, H, W)`` in 0..1 with numbers ``(n, draws)`` in 0..1."""
        ...


@dataclass(frozen=True)
class Affine:
    """Rotation, shift and scaling about the centre, bilinear, black outside.

    Attributes:
        degrees: Rotation is uniform in +-degrees.
        shift: Shift along each axis is uniform in +-shift, a share of the side.
        scale: Scale is uniform in 1 +- scale.
    """

    degrees: float = 8.0
    shift: float = 0.08
    scale: float = 0.05
    draws: ClassVar[int] = 4

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Samples every output pixel from its place in the input."""
        signed = 2.0 * u - 1.0
        angle = signed[:, 0] * math.radians(self.degrees)
        scale = 1.0 + signed[:, 1] * self.scale
        height, width = images.shape[-2:]
        cos, sin = angle.cos() / scale, angle.sin() / scale
        # grid_sample's axes run from -1 to 1 over each side, so a share of the side is twice that number.
        row_x = torch.stack([cos, sin * height / width, 2.0 * self.shift * signed[:, 2]], dim=1)
        row_y = torch.stack([-sin * width / height, cos, 2.0 * self.shift * signed[:, 3]], dim=1)
        grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Contrast:
    """Multiplies the distance from black by a factor uniform in 1 +- strength, clipped to 0..1."""

    strength: float = 0.4
    draws: ClassVar[int] = 1

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Scales each image."""
        factor = 1.0 + (2.0 * u[:, 0] - 1.0) * self.strength
        return (images * factor.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Cutout:
    """Blacks out a square whose centre is uniform over the image (DeVries and Taylor 2017, arXiv 1708.04552).

    Attributes:
        share: Side of the square as a share of the image's height; the square may reach over the edge.
    """

    share: float = 0.4
    draws: ClassVar[int] = 2

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Zeroes the pixels whose centres lie in the square."""
        height, width = images.shape[-2:]
        half = 0.5 * self.share * height
        rows = torch.arange(height, device=images.device) + 0.5
        columns = torch.arange(width, device=images.device) + 0.5
        in_rows = (rows - u[:, :1] * height).abs() <= half
        in_columns = (columns - u[:, 1:] * width).abs() <= half
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        return images.masked_fill(inside, 0.0)


_OPERATIONS: dict[str, type] = {"affine": Affine, "contrast": Contrast, "cutout": Cutout, "randaugment": RandAugment}


@dataclass(frozen=True)
class Policy:
    """A parsed policy. Its text is its identity."""

    operations: tuple[Operation, ...]

    @property
    def draws(self) -> int:
        """Uniform numbers it takes per image."""
        return sum(operation.draws for operation in self.operations)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Applies the operations in order.

        Args:
            images: ``(n, C, H, W)`` in 0..1.
            u: ``(n, draws)`` uniform in 0..1, on the same device.

        Returns:
            New images of the same shape, in 0..1.
        """
        for operation, numbers in zip(self.operations, u.split([o.draws for o in self.operations], dim=1), strict=True):
            images = operation(images, numbers)
        return images


def parse_policy(field: str, text: str) -> Policy:
    """Reads a policy.

    Args:
        field: Name of the recipe's field, for the error.
        text: The policy; ``none`` is the empty one.

    Raises:
        InputError: An operation is unknown, or its numbers are wrong.
    """
    if text == "none":
        return Policy(())
    operations: list[Operation] = []
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(\w+)(?:\(([^()]*)\))?\s*", part)
        if match is None or match[1] not in _OPERATIONS:
            word = part if match is None else match[1]
            raise InputError(f"{field}={text}: operation {word!r} is unknown; {near(word, [*_OPERATIONS, 'none'])}")
        operation = _OPERATIONS[match[1]]
        try:
            numbers = [float(number) for number in match[2].split(",")] if match[2] else []
            if not all(map(math.isfinite, numbers)):
                raise ValueError
            operations.append(operation(*numbers))
        except (TypeError, ValueError):
            names = ",".join(inspect.signature(operation).parameters)
            raise InputError(f"{field}={text}: {part!r} is wrong; write {match[1]}({names}), numbers only") from None
    return Policy(tuple(operations))
