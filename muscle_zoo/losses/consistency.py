"""Losses that make one view agree with what the network says of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PseudoLabelLoss(nn.Module):
    """Cross-entropy of the strong view against the class guessed from the weak view, where the guess is confident.

    ``(1/n) sum_i 1[max p_i >= threshold] H(argmax p_i, q_i)`` (FixMatch, Sohn et al. 2020, arXiv 2001.07685, eq. 4).
    No gradient flows through the guess. Nothing crosses processes: the mean over equal shares is averaged with the
    gradients.

    Args:
        threshold: Least probability, 0 to 1, at which a guess counts.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, logits_weak: Tensor, logits_strong: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the loss.

        Args:
            logits_weak: ``(n, C)``, the view that is guessed from.
            logits_strong: ``(n, C)``, the view that is trained.

        Returns:
            The loss, a scalar in nats, float32 at least; and the mask, ``(n,)`` of 0 and 1.
        """
        dtype = torch.promote_types(logits_strong.dtype, torch.float32)
        confidence, guess = logits_weak.detach().to(dtype).softmax(dim=-1).max(dim=-1)
        mask = (confidence >= self.threshold).to(dtype)
        loss = F.cross_entropy(logits_strong.to(dtype), guess, reduction="none")
        return (loss * mask).mean(), mask

    def extra_repr(self) -> str:
        """Shows the threshold in ``repr``."""
        return f"threshold={self.threshold}"
