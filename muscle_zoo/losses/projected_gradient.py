"""Adversarial images by projected gradient ascent, within a cube around an image and within what pixels can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Ball(NamedTuple):
    """How far an image may be moved. Each tensor broadcasts to the images: one number, or one for each channel.

    Attributes:
        radius: Greatest change of a number (the maximum norm).
        low: Least value that a number may have.
        high: Greatest value.
    """

    radius: Tensor
    low: Tensor
    high: Tensor

    def project(self, moved: Tensor, images: Tensor) -> Tensor:
        """The nearest images that are within the radius of others, and within the bounds."""
        near = torch.minimum(torch.maximum(moved, images - self.radius), images + self.radius)
        return torch.minimum(torch.maximum(near, self.low), self.high)


def projected_gradient(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    ball: Ball,
    step_size: Tensor,
    iterations: int,
) -> Tensor:
    """Moves images so that an objective grows: ``x <- project(x + step_size sign(gradient))`` (PGD).

    Madry et al. 2018 (arXiv 1706.06083), section 2.1. Where the gradient is 0 a number stays: an objective that is
    smallest at the images themselves, such as a divergence from their prediction, needs another start.

    Args:
        objective: Images ``(n, C, H, W)`` to a scalar; a sum, so that no image's gradient depends on how many there
            are.
        images: What may be moved, ``(n, C, H, W)``.
        start: Where to begin; it is projected first.
        ball: How far.
        step_size: Of each iteration; broadcasts to the images.
        iterations: How many, at least 0.

    Returns:
        ``(n, C, H, W)`` in the ball, without gradients.

    Example:
        >>> ball = Ball(torch.tensor(0.3), torch.tensor(0.0), torch.tensor(1.0))
        >>> image = torch.full((1, 1, 1, 2), 0.9)
        >>> weights = torch.tensor([1.0, -1.0])
        >>> projected_gradient(lambda x: (x * weights).sum(), image, image, ball, torch.tensor(0.2), 3)
        tensor([[[[1.0000, 0.6000]]]])
    """
    moved = ball.project(start.detach(), images)
    for _ in range(iterations):
        with torch.enable_grad():
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(objective(moved), moved)
        moved = ball.project(moved.detach() + step_size * gradient.sign(), images)
    return moved
