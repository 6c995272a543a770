"""Distribution alignment: predictions whose mean is what it should be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .consistency import to_float32
from .distributed import mean_over_processes


def align_distribution(probabilities: Tensor, mean: Tensor, target: Tensor | float = 1.0) -> Tensor:
    """``p * target / mean``, divided by its sum (ReMixMatch, Berthelot et al. 2020, arXiv 1911.09785).

    Args:
        probabilities: ``(n, C)``.
        mean: What the network predicts on average, ``(C,)``.
        target: What it should predict on average, ``(C,)``; by default each class as often as any other.

    Returns:
        ``(n, C)`` probabilities.

    Example:
        >>> import torch
        >>> align_distribution(torch.tensor([[0.8, 0.2]]), mean=torch.tensor([0.8, 0.2]))
        tensor([[0.5000, 0.5000]])
    """
    weighted = probabilities * ((1e-6 + target) / (1e-6 + mean))  # the authors' 1e-6: a class that is never predicted
    return weighted / weighted.sum(dim=-1, keepdim=True)


class AlignedPredictions(nn.Module):
    """Predictions divided by what is predicted on average over the steps, so that each class comes as often.

    Args:
        num_classes: C.
        momentum: Share of the average that a step keeps, 0 to 1.

    Example:
        >>> aligned = AlignedPredictions(2, momentum=0.0)
        >>> aligned(torch.tensor([[2.0, 0.0], [2.0, 0.0]])).round(decimals=3)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    mean: Tensor

    def __init__(self, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.full((num_classes,), 1.0 / num_classes))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Brings the average up to date, over all processes, and aligns: logits ``(n, C)`` to probabilities."""
        mean = mean_over_processes(to_float32(logits).softmax(dim=-1).mean(dim=0).to(self.mean.dtype))
        self.mean.lerp_(mean, 1.0 - self.momentum)
        return self.align(logits)

    @torch.no_grad()
    def align(self, logits: Tensor) -> Tensor:
        """Aligns by the average as it is."""
        return align_distribution(to_float32(logits).softmax(dim=-1), self.mean)
