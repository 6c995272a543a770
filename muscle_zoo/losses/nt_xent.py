"""SimCLR's contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .consistency import to_float32
from .distributed import gather_rows


class NTXentLoss(nn.Module):
    """Normalized temperature-scaled cross-entropy of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1).

    Of 2N vectors, two of each of N images, each should be more similar to the other of its image than to the 2N - 2 of
    other images: ``-log(exp(s_ij / T) / sum_{k != i} exp(s_ik / T))``, with the cosine similarity s, is averaged over
    all 2N. With several processes the images of all of them are each other's negatives, with gradients. Computed in
    float32 at least.

    Args:
        temperature: T, above 0. 0.5 is the paper's best on CIFAR-10, 0.1 on ImageNet.

    Raises:
        InputError: The temperature is not above 0.

    Example:
        >>> loss = NTXentLoss(temperature=0.5)
        >>> z = torch.eye(2)  # two images, whose views agree and which have nothing in common
        >>> round(loss(z, z).item(), 4)  # -log(e^2 / (e^2 + 2))
        0.2395
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        if not temperature > 0.0:
            raise InputError(f"NTXentLoss: temperature={temperature} is not above 0; 0.5 is usual")
        self.temperature = temperature

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            z_a: Projections of one view of n images, ``(n, D)``.
            z_b: Of another view of the same images.

        Returns:
            A scalar in nats, the mean over this process's 2n vectors; ``ln(2N - 1)`` where all are alike.

        Raises:
            InputError: The shapes differ or are not ``(n, D)``.
        """
        if z_a.ndim != 2 or z_a.shape != z_b.shape or not len(z_a):
            raise InputError(
                f"NTXentLoss: z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)} must both be (n, D): pass the two "
                "views of the same images"
            )
        z_a, z_b = (F.normalize(to_float32(z), dim=1) for z in (z_a, z_b))
        (all_a, first), (all_b, _) = gather_rows(z_a), gather_rows(z_b)
        with torch.autocast(z_a.device.type, enabled=False):  # it would run the products in half precision
            similarity = torch.cat([z_a, z_b]) @ torch.cat([all_a, all_b]).T / self.temperature
        own = torch.arange(first, first + len(z_a), device=z_a.device)
        itself, other = torch.cat([own, own + len(all_a)]), torch.cat([own + len(all_a), own])
        similarity = similarity.scatter(1, itself[:, None], -torch.inf)
        return F.cross_entropy(similarity, other)

    def extra_repr(self) -> str:
        """Shows the temperature in ``repr``."""
        return f"temperature={self.temperature}"
