"""Weights of several losses, from their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def least_norm_weights(products: Tensor, iterations: int = 50) -> Tensor:
    """The weights, at least 0 and 1 in all, with which the sum of some gradients is shortest.

    Frank-Wolfe (Sener and Koltun 2018, arXiv 1810.04650, algorithm 2): of the gradients the one with the smallest
    product with the sum gains weight, as much as makes the sum shortest. A step against the sum raises no loss.

    Args:
        products: Of the gradients with each other, ``(T, T)``.
        iterations: At most; it ends as soon as a step changes little.

    Returns:
        ``(T,)``.

    Example:
        >>> least_norm_weights(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))  # the longer one counts less
        tensor([0.2000, 0.8000])
    """
    weights = torch.full_like(products[0], 1.0 / len(products))
    for _ in range(iterations):
        with_sum = products @ weights
        nearest = with_sum.argmin()
        length, cross, own = weights @ with_sum, with_sum[nearest], products[nearest, nearest]
        divisor = length - 2.0 * cross + own
        if divisor <= 1e-12 * products.diagonal().max().clamp(min=1e-30):
            break
        step = ((length - cross) / divisor).clamp(0.0, 1.0)
        one = torch.zeros_like(weights)
        one[nearest] = 1.0
        weights = torch.lerp(weights, one, step)
        if step < 1e-6:
            break
    return weights
