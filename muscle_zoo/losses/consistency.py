"""Losses that make one view agree with what the network says of another.

Each is a mean over the images it is given and works in float32 at least. Nothing crosses processes: the means over
equal shares are averaged with the gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_float32(x: Tensor) -> Tensor:
    """float32 at least, whatever autocast made of it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """``p^(1/T) / sum p^(1/T)`` along the last dimension (MixMatch, Berthelot et al. 2019, arXiv 1905.02249, eq. 7)."""
    return (probabilities.log() / temperature).softmax(dim=-1)  # the powers themselves may all underflow


class PseudoLabelLoss(nn.Module):
    """Cross-entropy of the strong view against the weak view's class, where that is confident.

    ``(1/n) sum_i 1[max p_i >= threshold] H(argmax p_i, q_i)`` (FixMatch, Sohn et al. 2020, arXiv 2001.07685, eq. 4).
    No gradient flows through the pseudo-label.

    Args:
        threshold: Least probability, 0 to 1, at which a pseudo-label counts.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self, logits_weak: Tensor, logits_strong: Tensor, threshold: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss.

        Args:
            logits_weak: ``(n, C)``, the view that gives the pseudo-label.
            logits_strong: ``(n, C)``, the view that is trained.
            threshold: ``(C,)``, one for each class, instead of the one of all.

        Returns:
            The loss, a scalar in nats, float32 at least; and the mask, ``(n,)`` of 0 and 1.
        """
        classes, mask = self.pseudo_labels(logits_weak, threshold)
        loss = F.cross_entropy(to_float32(logits_strong), classes, reduction="none")
        return (loss * mask).mean(), mask

    def pseudo_labels(self, logits_weak: Tensor, threshold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The classes ``(n,)`` that the weak view gives, and the mask ``(n,)`` of 0 and 1 of those that count."""
        confidence, classes = to_float32(logits_weak.detach()).softmax(dim=-1).max(dim=-1)
        counts = confidence >= (self.threshold if threshold is None else threshold[classes])
        return classes, counts.to(confidence.dtype)

    def extra_repr(self) -> str:
        """Shows the threshold in ``repr``."""
        return f"threshold={self.threshold}"


class SquaredDifference(nn.Module):
    """Mean over images and classes of the squared difference of two distributions.

    ``1/(nC) sum_i ||p_i - softmax(z_i)||^2`` (temporal ensembling, Laine and Aila 2017, arXiv 1610.02242, section 2).
    """

    def forward(self, target: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss.

        Args:
            target: ``(n, C)`` probabilities; gradients flow into them where they carry any.
            logits: ``(n, C)``.
            mask: ``(n,)`` of 0 and 1: images that count; the mean is over all.

        Returns:
            A scalar.
        """
        divergence = (to_float32(target) - to_float32(logits).softmax(dim=-1)).square().mean(dim=-1)
        return (divergence if mask is None else divergence * mask).mean()


class Divergence(nn.Module):
    """Mean over images of ``KL(p_i || softmax(z_i))``, in nats. No gradient flows through p."""

    def forward(self, target: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the loss; arguments as for :class:`SquaredDifference`."""
        target = to_float32(target.detach())
        divergence = (torch.special.xlogy(target, target) - target * to_float32(logits).log_softmax(dim=-1)).sum(dim=-1)
        return (divergence if mask is None else divergence * mask).mean()


class Entropy(nn.Module):
    """Mean over images of the entropy of ``softmax(z_i)``, in nats (Grandvalet and Bengio 2004)."""

    def forward(self, logits: Tensor) -> Tensor:
        """Computes it of ``(n, C)`` logits."""
        log_p = to_float32(logits).log_softmax(dim=-1)
        return -(log_p.exp() * log_p).sum(dim=-1).mean()


class SoftCrossEntropy(nn.Module):
    """Mean over images of ``H(p_i, softmax(z_i))``, in nats, for labels that are distributions."""

    def forward(self, target: Tensor, logits: Tensor) -> Tensor:
        """Computes it of probabilities and logits, both ``(n, C)``."""
        return -(to_float32(target) * to_float32(logits).log_softmax(dim=-1)).sum(dim=-1).mean()
