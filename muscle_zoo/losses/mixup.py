"""Mixup: images and their labels are mixed with others'."""

from __future__ import annotations

import torch
from torch import Tensor


def mixup(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each image with its label, mixed with one drawn from all (MixMatch, arXiv 1905.02249, eq. 8 to 11).

    ``b x_i + (1 - b) x_j`` with ``b`` from ``Beta(alpha, alpha)``, drawn for each image, and at least one half, so that
    a mixed image stays nearer to its own than to the other. It draws from torch's global generator.

    Args:
        images: ``(n, C, H, W)``.
        labels: Their distributions, ``(n, K)``.
        alpha: Both parameters of the beta distribution.

    Returns:
        Mixed images and labels, in the order given.

    Example:
        >>> images, labels = mixup(torch.ones(2, 1, 1, 1), torch.eye(2), alpha=0.75)
        >>> images.flatten().tolist(), labels.sum(dim=1).tolist()
        ([1.0, 1.0], [1.0, 1.0])
    """
    beta = torch.distributions.Beta(alpha, alpha).sample((len(images),)).to(images)
    beta = torch.maximum(beta, 1.0 - beta)
    order = torch.randperm(len(images), device=images.device)
    share_of_own = beta.view(-1, 1, 1, 1)
    mixed = share_of_own * images + (1.0 - share_of_own) * images[order]
    return mixed, beta[:, None] * labels + (1.0 - beta[:, None]) * labels[order]
