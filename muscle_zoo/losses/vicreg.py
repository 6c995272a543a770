"""VICReg's loss: views agree, and no number of an embedding is constant or says what another one says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .consistency import to_float32
from .distributed import all_reduce_sum

EPSILON = 1e-4  # added to a variance before its root, as the authors' code does


class VICRegLoss(nn.Module):
    """Variance-invariance-covariance regularization (Bardes et al. 2022, arXiv 2105.04906, eq. 1 to 6).

    ``invariance * s + variance * v + covariance * c``: s is the mean squared difference of the two views' embeddings; v
    the mean over numbers of ``max(0, 1 - standard deviation)`` over the batch, averaged over the views, as in the
    authors' code; c the sum of the squared off-diagonal cells of the covariance matrix, divided by D, summed over the
    views. With several processes the statistics are those of the global batch, with gradients; only sums of D and D x D
    numbers travel. Computed in float32 at least.

    Args:
        invariance: Weight of s, at least 0.
        variance: Weight of v, at least 0.
        covariance: Weight of c, at least 0.

    Raises:
        InputError: A weight is below 0.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # spread, and not correlated
        >>> loss = VICRegLoss()
        >>> loss(z, z).item(), round(loss(0 * z, 0 * z).item(), 4)  # collapsed: 25 (1 - sqrt(0.0001))
        (0.0, 24.75)
    """

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in weights.items():
            if not weight >= 0.0:
                raise InputError(f"VICRegLoss: {name}={weight} is below 0; give 0 or more")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            z_a: Embeddings of one view of n images, ``(n, D)``; not normalized.
            z_b: Of another view of the same images.

        Returns:
            A scalar.

        Raises:
            InputError: The shapes differ or are not ``(n, D)``, or there is one image in all.
        """
        s, v, c = self.terms(z_a, z_b)
        return self.invariance * s + self.variance * v + self.covariance * c

    def terms(self, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three terms without their weights, s, v and c; arguments and errors as for :meth:`forward`."""
        if z_a.ndim != 2 or z_a.shape != z_b.shape:
            raise InputError(
                f"VICRegLoss: z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)} must both be (n, D): pass the two "
                "views of the same images"
            )
        z_a, z_b = to_float32(z_a), to_float32(z_b)
        covariances = [_covariance(z) for z in (z_a, z_b)]
        deviations = [(matrix.diagonal() + EPSILON).sqrt() for matrix in covariances]
        v = torch.stack([F.relu(1.0 - deviation).mean() for deviation in deviations]).mean()
        c = sum((matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix) for matrix in covariances)
        return F.mse_loss(z_a, z_b), v, torch.as_tensor(c)

    def extra_repr(self) -> str:
        """Shows the weights in ``repr``."""
        return f"invariance={self.invariance}, variance={self.variance}, covariance={self.covariance}"


def _covariance(z: Tensor) -> Tensor:
    """Unbiased covariance ``(D, D)`` of the rows of all processes."""
    n = all_reduce_sum(z.new_tensor(float(len(z))))
    if n < 2:
        raise InputError("VICRegLoss: one image has no variance; pass 2 or more")
    centered = z - all_reduce_sum(z.sum(dim=0)) / n
    with torch.autocast(z.device.type, enabled=False):  # it would run the product in half precision
        return all_reduce_sum(centered.T @ centered) / (n - 1)
