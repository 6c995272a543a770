"""How often a classifier is right although somebody changes each picture a little, to mislead it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSetInfo, ImageSource, normalize
from ..data.batches import seeded_generator
from ..errors import InputError
from ..losses.projected_gradient import Ball, projected_gradient
from ..methods.base import evaluation_mode

STEPS = 20
_STRIDE = 2.5  # all steps together, as a multiple of the radius (Madry et al. 2018's): enough to reach every corner
_PIXELS = 2**24  # numbers in one batch: with gradients it takes more memory than an evaluation


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent of the cross-entropy, in the maximum norm, on pixels between 0 and 1.

    Attributes:
        epsilon: Greatest change of a pixel's channel, above 0 and at most 1.
        steps: Iterations, from one random start.
    """

    epsilon: float
    steps: int = STEPS


def parse_attack(text: str) -> Attack:
    """Reads ``pgd:EPSILON[:STEPS]``.

    Raises:
        InputError: It is written otherwise.

    Example:
        >>> parse_attack("pgd:8/255").epsilon == 8 / 255, parse_attack("pgd:0.1:50").steps
        (True, 50)
    """
    match = re.fullmatch(r"pgd:(\d*\.?\d+)(?:/(\d+))?(?::(\d{1,6}))?", text)
    epsilon = float(match[1]) / float(match[2] or 1) if match and float(match[2] or 1) else math.nan
    if match is None or not 0.0 < epsilon <= 1.0 or (match[3] is not None and int(match[3]) < 1):
        raise InputError(
            f"--attack {text} is wrong; write pgd:EPSILON or pgd:EPSILON:STEPS with EPSILON above 0 and at most 1, "
            "such as pgd:8/255"
        )
    return Attack(epsilon, int(match[3] or STEPS))


def attacked_accuracy(
    model: nn.Module, data: ImageSource, info: DataSetInfo, attack: Attack, batch_size: int = 1024
) -> float:
    """Share of the images that a classifier is right about as they are and as an attack makes them.

    Pixels are changed as they are stored, before they are resized and normalized. The start is uniform in the ball and
    the same every time. It is an upper bound: a stronger attack might find more.

    Args:
        model: Images ``(n, C, H, W)`` to logits; its mode is left as it was.
        data: Images and their classes.
        info: Mean and standard deviation.
        attack: How they are changed.
        batch_size: Images per forward, at most; large ones are fewer.

    Returns:
        0 to 1.
    """
    device = next(model.parameters()).device
    size = min(batch_size, max(8, _PIXELS // math.prod(info.input_size)))
    positions = torch.arange(len(data)).split(size)
    generator = seeded_generator("attack")
    right = 0
    with evaluation_mode(model):
        for chosen, stored in zip(positions, data.batches(positions), strict=True):
            images = stored.float().div_(255.0) if stored.dtype == torch.uint8 else stored
            start = images + attack.epsilon * (2 * torch.rand(images.shape, generator=generator) - 1)
            labels = data.labels[chosen].to(device)
            right += _count_right(model, images.to(device), start.to(device), labels, info, attack)
    return right / len(data)


def _count_right(
    model: nn.Module, images: Tensor, start: Tensor, labels: Tensor, info: DataSetInfo, attack: Attack
) -> int:
    def logits(pixels: Tensor) -> Tensor:
        out: Tensor = model(normalize(pixels, info).contiguous(memory_format=torch.channels_last))
        return out.float()

    radius, low, high = images.new_tensor([attack.epsilon, 0.0, 1.0])
    moved = projected_gradient(
        lambda pixels: F.cross_entropy(logits(pixels), labels, reduction="sum"),
        images,
        start,
        Ball(radius, low, high),
        _STRIDE * radius / attack.steps,
        attack.steps,
    )
    with torch.no_grad():  # an image is in its own ball: one that is mistaken already is no success of the defense
        hits = (logits(images).argmax(dim=1) == labels) & (logits(moved).argmax(dim=1) == labels)
    return int(hits.sum())
