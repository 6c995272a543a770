"""Distribution alignment: predictions whose mean is what it should be."""

from __future__ import annotations

from torch import Tensor


def align_distribution(probabilities: Tensor, mean: Tensor, target: Tensor | float = 1.0) -> Tensor:
    """``p * target / mean``, divided by its sum (ReMixMatch, Berthelot et al. 2020, arXiv 1911.09785, section 3.1).

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
