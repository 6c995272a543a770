"""RandAugment in batches, with the ranges that FixMatch gives its magnitudes.

Sohn et al. 2020, FixMatch (arXiv 2001.07685), appendix D, table 12, draws operations of RandAugment (Cubuk et al. 2019,
arXiv 1909.13719) at random, each with a random magnitude. Here a batch is sorted by operation, so that every operation
is a few calls on a contiguous run of images: the point operations become lookup tables that share one gather, the
geometric ones matrices that share another. Values are whole numbers 0..255 in between and rounded where Pillow rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FILL = 128  # of 255: what a geometric operation shows outside the image


class Magnitude(NamedTuple):
    """Where an operation's magnitude is uniform; ``signed`` gives it a random sign."""

    low: float = 0.0
    high: float = 0.0
    signed: bool = False


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device)


def _blend(start: Tensor, end: Tensor, factor: Tensor) -> Tensor:
    """``Image.blend``: from start (factor 0) to end (1), rounded down."""
    return (start + factor * (end - start)).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """``convert("L")``: luma of ``(n, 3, H, W)`` as int32 ``(n, 1, H, W)``; gray images stay."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def _autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretches each channel to 0..255 (``ImageOps.autocontrast``)."""
    exact = "cpu" if images.device.type == "mps" else images.device  # Apple's GPUs have no float64
    low, high = (bound.to(exact).double().unsqueeze(2) for bound in images.flatten(2).aminmax(dim=2))
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1.0)  # a number / a tensor would round twice
    levels = _levels(images).to(exact)
    # The order of the operations is Pillow's: where it rounds 254.99... down, so does this.
    return torch.where(high > low, (levels * scale + -low * scale).clamp(0.0, 255.0), levels)


def _equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Makes each channel's histogram flat (``ImageOps.equalize``)."""
    values = images.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, values, torch.ones((), dtype=torch.int32, device=images.device).expand(values.shape))
    brightest = counts.gather(2, values.amax(dim=2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    below = counts.cumsum(dim=2, dtype=torch.int32) - counts
    return torch.where(step > 0, ((below + step // 2) // step.clamp(min=1)).clamp(max=255), _levels(images))


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keeps the highest bits, as many as the magnitude's whole part (``ImageOps.posterize``)."""
    dropped = 8 - magnitude.floor().clamp(max=8.0).to(torch.int32)
    return (_levels(images) >> dropped) << dropped


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Inverts what is not below magnitude * 256 (``ImageOps.solarize``)."""
    levels = _levels(images)
    return torch.where(levels < 256.0 * magnitude, levels, 255 - levels)


def _brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends from black (``ImageEnhance.Brightness``)."""
    return magnitude * _levels(images)


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends from the mean gray (``ImageEnhance.Contrast``)."""
    pixels = images.shape[-2] * images.shape[-1]
    mean = (2 * _gray(images).sum(dim=(2, 3), dtype=torch.int64) + pixels) // (2 * pixels)
    return _blend(mean.unsqueeze(2), _levels(images), magnitude)


def _color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends from gray (``ImageEnhance.Color``)."""
    return images if images.shape[1] == 1 else _blend(_gray(images).float(), images, magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blends from the image smoothed by 3x3 weights of 1, the middle one 5 (``ImageEnhance.Sharpness``)."""
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4.0 * pixels[..., 1:-1, 1:-1]
    out = images.clone()  # Pillow's filter leaves the border as it is
    out[..., 1:-1, 1:-1] = _blend(total.div(13.0).round(), pixels[..., 1:-1, 1:-1], magnitude)
    return out


# A point operation makes a table (n, C or 1, 256) of images and magnitudes (n, 1, 1); a filter makes images of images
# and magnitudes (n, 1, 1, 1); a geometric operation is a parameter of _geometric.
_POINT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "brightness": _brightness,
    "contrast": _contrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
}
_FILTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"color": _color, "sharpness": _sharpness}

_FACTOR = Magnitude(0.05, 0.95)
_OF_SIDE = Magnitude(0.0, 0.3, signed=True)  # a share of the image's side
# In the order in which a batch is sorted: point operations, filters, geometric operations, identity. It also says which
# random number means which operation: another order would change every run.
OPERATIONS: dict[str, Magnitude] = {
    "autocontrast": Magnitude(),
    "brightness": _FACTOR,
    "contrast": _FACTOR,
    "equalize": Magnitude(),
    "posterize": Magnitude(4.0, 9.0),  # its whole part counts: 4 to 8 bits, equally often
    "solarize": Magnitude(0.0, 1.0),
    "color": _FACTOR,
    "sharpness": _FACTOR,
    "rotate": Magnitude(0.0, 30.0, signed=True),  # degrees, counter-clockwise
    "shear_x": _OF_SIDE,
    "shear_y": _OF_SIDE,
    "translate_x": _OF_SIDE,  # of the side; positive moves the picture to the left or up
    "translate_y": _OF_SIDE,
    "identity": Magnitude(),
}


def _point(images: Tensor, magnitude: Tensor, counts: Sequence[int]) -> Tensor:
    """Looks every value up in its channel's table."""
    tables = torch.empty(*images.shape[:2], 256, dtype=torch.uint8, device=images.device)
    parts = zip(_POINT.values(), *(t.split(counts) for t in (images, magnitude.view(-1, 1, 1), tables)), strict=True)
    for operation, image, size, table in parts:
        if len(image):
            table.copy_(operation(image, size))
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _geometric(images: Tensor, magnitude: Tensor, counts: Sequence[int]) -> Tensor:
    """Takes every pixel from its nearest place in the input, in Pillow's 16.16 fixed-point numbers.

    A gather at whole-number places: unlike ``grid_sample`` it moves bytes, and no device breaks ties its own way.
    """
    height, width = images.shape[-2:]
    parameters = magnitude.new_zeros(len(counts), len(images))
    start = 0
    for row, count in zip(parameters, counts, strict=True):
        row[start : start + count] = magnitude[start : start + count]
        start += count
    angle, shear_x, shear_y, shift_x, shift_y = parameters
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    x, y = width / 2, height / 2  # rotation is about the center, shear about the top left corner
    matrix = torch.stack(
        [
            *(cos, shear_x - sin, shift_x * width + (x - cos * x + sin * y)),
            *(shear_y + sin, cos, shift_y * height + (y - sin * x - cos * y)),
        ]
    )
    matrix[2] += 0.5 * (matrix[0] + matrix[1])
    matrix[5] += 0.5 * (matrix[3] + matrix[4])
    a, b, c, d, e, f = (matrix * 65536.0 + 0.5).floor().to(torch.int32).view(6, -1, 1, 1)
    columns = torch.arange(width, dtype=torch.int32, device=images.device)
    rows = torch.arange(height, dtype=torch.int32, device=images.device).view(-1, 1)
    from_x = (a * columns + (b * rows + c)) >> 16
    from_y = (d * columns + (e * rows + f)) >> 16
    outside = (from_x != from_x.clamp(0, width - 1)) | (from_y != from_y.clamp(0, height - 1))
    # One more place, behind the last pixel, holds the fill.
    places = torch.where(outside, height * width, from_y * width + from_x).long().view(len(images), 1, -1)
    pixels = F.pad(images.flatten(2), (0, 1), value=FILL)
    return pixels.gather(2, places.expand(-1, images.shape[1], -1)).view_as(images)


def apply_sorted(images: Tensor, magnitude: Tensor, counts: Sequence[int]) -> Tensor:
    """Applies one operation to each image of a batch that is sorted by operation.

    Args:
        images: uint8 ``(n, C, H, W)``, C 1 or 3.
        magnitude: float ``(n,)``, signed, each in the unit of its image's operation.
        counts: How many images each of OPERATIONS has, in that order.

    Returns:
        New uint8 images of the same shape.
    """
    points, filters = len(_POINT), len(_FILTERS)
    kinds = counts[:points], counts[points : points + filters], counts[points + filters : -1]
    sizes = [sum(kinds[0]), *kinds[1], sum(kinds[2]), counts[-1]]
    parts = list(images.split(sizes))
    magnitudes = magnitude.split(sizes)
    if sizes[0]:
        parts[0] = _point(parts[0], magnitudes[0], kinds[0])
    for place, operation in enumerate(_FILTERS.values(), start=1):
        if sizes[place]:
            parts[place] = operation(parts[place], magnitudes[place].view(-1, 1, 1, 1))
    if sizes[-2]:
        parts[-2] = _geometric(parts[-2], magnitudes[-2], kinds[2])
    return torch.cat(parts)


@dataclass(frozen=True)
class RandAugment:
    """FixMatch's RandAugment: operations drawn independently, with replacement, each with its own random magnitude.

    Images in 0..1 are rounded to 256 levels first, as Pillow has them; uint8 images come out.

    How many operations really change an image differs between implementations that all say RandAugment. Both
    google-research/fixmatch (``AugmentPoolRAMC``) and kekmodel/FixMatch-pytorch draw 2 and apply each with probability
    0.5 (0.93 on average, as the identity is among them); TorchSSL and USB apply 3 (2.79). Here it is 2, each applied
    (1.86); ``randaugment(2,0.5)`` is theirs.

    Attributes:
        ops: How many of the 14 OPERATIONS each image gets, one after the other.
        probability: Of each to be applied rather than left out, above 0 and at most 1.

    Raises:
        ValueError: ``ops`` is not a whole number of 1 or more, or the probability is none.
    """

    ops: float = 2
    probability: float = 1.0
    takes_bytes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.ops >= 1 and float(self.ops).is_integer()):
            raise ValueError(f"ops={self.ops}: give a whole number of 1 or more")
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"probability={self.probability}: give more than 0 and at most 1")

    @property
    def num_random(self) -> int:
        """Uniform numbers per image: which operation, its magnitude and its sign, for each of ``ops``."""
        return 3 * int(self.ops)

    def __call__(self, images: Tensor, random_numbers: Tensor) -> Tensor:
        """Applies each image's operations in turn. All is planned on the CPU, so that nothing waits for the device."""
        which, strength, side = random_numbers.float().view(len(random_numbers), int(self.ops), 3).unbind(dim=2)
        ranges = torch.tensor([(m.low, m.high - m.low, m.signed) for m in OPERATIONS.values()])
        # What is to be left out comes out above the last operation, which is the identity.
        choice = (which / self.probability * len(OPERATIONS)).long().clamp_(max=len(OPERATIONS) - 1)
        low, span, signed = ranges[choice].unbind(dim=2)
        magnitude = (low + span * strength) * (1.0 - 2.0 * signed * (side < 0.5))
        order = choice.argsort(dim=0, stable=True)
        back = order.argsort(dim=0)
        counts = [column.bincount(minlength=len(OPERATIONS)).tolist() for column in choice.unbind(1)]
        # The images lie sorted by the slot before; `back` says where each one is. The last move restores their order.
        moves = [order[:, 0], *(back[order[:, i], i - 1] for i in range(1, len(counts))), back[:, -1]]
        index = torch.stack(moves).to(images.device, non_blocking=True)
        sizes = magnitude.gather(0, order).t().contiguous().to(images.device, non_blocking=True)
        pixels = images if images.dtype == torch.uint8 else images.mul(255.0).round_().to(torch.uint8)
        for slot, count in enumerate(counts):
            pixels = apply_sorted(pixels.index_select(0, index[slot]), sizes[slot], count)
        return pixels.index_select(0, index[-1])
