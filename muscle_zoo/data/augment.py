"""Augmentation in batches, where the images are.

A policy is text: operations joined by ``+``, applied in order, such as
``affine(30,0.2,0.25)+contrast(0.4)+cutout(0.4)``; ``none`` leaves the images alone. Every operation turns uniform
numbers, drawn per image elsewhere, into its parameters: what it does is a pure function of images and numbers. The
numbers come on the CPU, whatever device the images are on: what can be planned there costs the device nothing.
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

from ..errors import InputError, suggest
from .randaugment import RandAugment


class Operation(Protocol):
    """One step of a policy.

    Attributes:
        takes_bytes: Whether it takes uint8 images as they are (and floats as well); otherwise it gets floats in 0..1.
    """

    takes_bytes: ClassVar[bool]

    @property
    def num_random(self) -> int:
        """Uniform numbers it takes per image."""
        ...

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Applies it to images ``(n, C, H, W)`` with numbers ``(n, num_random)`` in 0..1, which are on the CPU."""
        ...


def to_unit(images: Tensor) -> Tensor:
    """Bytes as floats in 0..1; floats as they are."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


@dataclass(frozen=True)
class Affine:
    """Rotation, shift and scaling about the center, bilinear, black outside.

    Attributes:
        degrees: Rotation is uniform in +-degrees.
        shift: Shift along each axis is uniform in +-shift, a share of the side.
        scale: Scale is uniform in 1 +- scale.
    """

    degrees: float = 8.0
    shift: float = 0.08
    scale: float = 0.05
    num_random: ClassVar[int] = 4
    takes_bytes: ClassVar[bool] = False

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Samples every output pixel from its place in the input."""
        signed = 2.0 * random_numbers.to(images.device, non_blocking=True) - 1.0
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
    """Multiplies pixels by a factor uniform in 1 +- strength, clipped to 0..1: contrast around black, or brightness."""

    strength: float = 0.4
    num_random: ClassVar[int] = 1
    takes_bytes: ClassVar[bool] = False

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Scales each image."""
        factor = 1.0 + (2.0 * random_numbers[:, 0].to(images.device, non_blocking=True) - 1.0) * self.strength
        return (images * factor.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Cutout:
    """Hides a square whose center is uniform over the image (DeVries and Taylor 2017, arXiv 1708.04552).

    Attributes:
        share: Side of the square as a share of the image's height; the square may reach over the edge.
        fill: What it shows, 0 (black) to 1; FixMatch's is the middle gray, 0.5.

    Raises:
        ValueError: ``fill`` is not 0 to 1.
    """

    share: float = 0.4
    fill: float = 0.0
    num_random: ClassVar[int] = 2
    takes_bytes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.fill <= 1.0:
            raise ValueError(f"fill={self.fill}: give 0 to 1")

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Fills the pixels whose centers lie in the square."""
        height, width = images.shape[-2:]
        half = 0.5 * self.share * height
        random_numbers = random_numbers.to(images.device, non_blocking=True)
        rows = torch.arange(height, device=images.device) + 0.5
        columns = torch.arange(width, device=images.device) + 0.5
        in_rows = (rows - random_numbers[:, :1] * height).abs() <= half
        in_columns = (columns - random_numbers[:, 1:] * width).abs() <= half
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        return images.masked_fill(inside, round(255 * self.fill) if images.dtype == torch.uint8 else self.fill)


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right, each image with probability one half."""

    num_random: ClassVar[int] = 1
    takes_bytes: ClassVar[bool] = True

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Mirrors the images whose number is below one half."""
        mirrored = (random_numbers[:, 0] < 0.5).to(images.device, non_blocking=True)
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


@dataclass(frozen=True)
class Shift:
    """Moves the picture by whole pixels; what comes in is the picture's own reflection.

    Attributes:
        share: Shift along each axis is uniform in +-share, a share of the side: FixMatch's weak view has 0.125.

    Raises:
        ValueError: ``share`` is not at least 0 and below 1.
    """

    share: float = 0.125
    num_random: ClassVar[int] = 2
    takes_bytes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 1.0:
            raise ValueError(f"share={self.share}: give at least 0 and below 1")

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Gathers rows, then columns."""
        for axis, numbers in zip((2, 3), random_numbers.unbind(1), strict=True):
            side = images.shape[axis]
            reach = int(self.share * side)
            shift = (numbers * (2 * reach + 1)).long().clamp(max=2 * reach) - reach
            place = torch.arange(side) + shift.view(-1, 1)
            place = (side - 1) - ((side - 1) - place.abs()).abs()  # reflected, the edge pixel once
            shape = [len(images), 1, 1, 1]
            shape[axis] = side
            place = place.to(images.device, non_blocking=True).view(shape)
            images = images.gather(axis, place.expand(images.shape))
        return images


@dataclass(frozen=True)
class Crop:
    """Cuts out a part and enlarges it to the whole, bilinear (Szegedy et al. 2015, arXiv 1409.4842, as torchvision's).

    Attributes:
        least: Area of the part is uniform from this share of the image's to 1; its ratio of sides is log-uniform
            from 3/4 to 4/3.

    Raises:
        ValueError: ``least`` is not above 0 and at most 1.
    """

    least: float = 0.2
    num_random: ClassVar[int] = 4
    takes_bytes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= 1.0:
            raise ValueError(f"least={self.least}: give more than 0 and at most 1")

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Samples every output pixel from its place in the part."""
        area, ratio = (
            self.least + (1.0 - self.least) * random_numbers[:, 0],
            (math.log(4 / 3) * (2.0 * random_numbers[:, 1] - 1.0)).exp(),
        )
        width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
        zero = torch.zeros_like(area)
        row_x = torch.stack([width, zero, (1.0 - width) * (2.0 * random_numbers[:, 2] - 1.0)], dim=1)
        row_y = torch.stack([zero, height, (1.0 - height) * (2.0 * random_numbers[:, 3] - 1.0)], dim=1)
        matrix = torch.stack([row_x, row_y], dim=1).to(images.device, non_blocking=True)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


_OPERATIONS: dict[str, type] = {
    "affine": Affine,
    "contrast": Contrast,
    "crop": Crop,
    "cutout": Cutout,
    "flip": Flip,
    "randaugment": RandAugment,
    "shift": Shift,
}


@dataclass(frozen=True)
class Policy:
    """A parsed policy. Its text is its identity."""

    operations: tuple[Operation, ...]

    @property
    def num_random(self) -> int:
        """Uniform numbers it takes per image."""
        return sum(operation.num_random for operation in self.operations)

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Applies the operations in order.

        Args:
            images: ``(n, C, H, W)``, uint8, or floats in 0..1.
            random_numbers: ``(n, num_random)`` uniform in 0..1, on the CPU.

        Returns:
            Images of the same shape, uint8 or floats in 0..1.
        """
        for operation, numbers in zip(
            self.operations, random_numbers.split([o.num_random for o in self.operations], dim=1), strict=True
        ):
            images = operation(images if operation.takes_bytes else to_unit(images), numbers)
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
            raise InputError(f"{field}={text}: operation {word!r} is unknown; {suggest(word, [*_OPERATIONS, 'none'])}")
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
