"""Nearest neighbors among the labeled embeddings: what people do first with a pretrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Method, RunContext, check_at_least

SMOOTHING = 0.01  # probability that is shared among all classes, for a likelihood of zero helps nobody


class KNN(Method):
    """Weighted k nearest neighbors (Wu et al. 2018, arXiv 1805.01978, section 3.4).

    Each of the labeled images nearest by cosine votes for its class with the weight ``exp(cosine / temperature)``. It
    takes no steps and looks at no unlabeled image.

    Args:
        neighbors: k, at least 1; all labeled images where they are fewer.
        temperature: Of the votes, at least 0.001.
        context: Of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> classifier = KNN(neighbors=1).fit(torch.eye(2), torch.tensor([1, 0]), torch.empty(0, 2), 2)
        >>> classifier(torch.tensor([[0.9, 0.1]])).argmax(dim=1).tolist()
        [1]
    """

    recipe: ClassVar[Mapping[str, int | str]] = {"steps": 0, "tune": "head"}

    def __init__(self, neighbors: int = 5, temperature: float = 0.07, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("knn.neighbors", neighbors, 1)
        check_at_least("knn.temperature", temperature, 1e-3)
        self.neighbors, self.temperature = neighbors, temperature

    def fit(self, labeled: Tensor, labels: Tensor, unlabeled: Tensor, num_classes: int) -> nn.Module:
        """Keeps the labeled images."""
        return NearestNeighbors(labeled, F.one_hot(labels, num_classes).float(), self.neighbors, self.temperature)


class NearestNeighbors(nn.Module):
    """Logits by the votes of the nearest of some examples.

    Args:
        examples: ``(m, D)``.
        classes: Their classes, one-hot ``(m, C)``.
        neighbors: How many vote.
        temperature: Of the votes.
    """

    def __init__(self, examples: Tensor, classes: Tensor, neighbors: int, temperature: float) -> None:
        super().__init__()
        # Parameters, though nothing trains them: optimizers and what looks for a network's device ask for some.
        self.examples = nn.Parameter(F.normalize(examples))
        self.classes = nn.Parameter(classes.clone())
        self.neighbors, self.temperature = min(neighbors, len(examples)), temperature

    def forward(self, features: Tensor) -> Tensor:
        """Log-probabilities ``(n, C)`` of features ``(n, D)``."""
        cosine, nearest = (F.normalize(features) @ self.examples.T).topk(self.neighbors, dim=1)
        votes = torch.softmax(cosine / self.temperature, dim=1)
        shares = (votes[:, :, None] * self.classes[nearest]).sum(dim=1)
        return ((1.0 - SMOOTHING) * shares + SMOOTHING / shares.shape[1]).log()
