"""Label propagation on embeddings: classes spread from labeled to unlabeled images along a graph of neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Method, RunContext, check_at_least, check_share
from .logistic import linear_layer, logistic_regression

_ROWS = 2048  # of the similarities that are worked out at a time
_MOST_ITERATIONS = 200
_CHANGE = 1e-4  # of the largest score, after which it has converged


class LabelPropagation(Method):
    """Label spreading (Zhou et al. 2004, "Learning with Local and Global Consistency"), then logistic regression.

    The graph joins each image with its nearest neighbors by cosine; scores F are iterated as
    ``F <- alpha S F + (1 - alpha) Y`` with ``S = D^-1/2 W D^-1/2``. So that new images can be classified, and the whole
    is a network, a linear classifier is then fitted to the classes that the unlabeled images got, each counting as much
    as its class is sure. It takes no steps.

    Args:
        neighbors: Of each image in the graph, at least 1.
        alpha: Share of an image's scores that comes from its neighbors, above 0 and at most 1.
        c: Weight of the images in the regression, see :func:`logistic_regression`, at least 0.
        context: Of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> pool = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
        >>> classifier = LabelPropagation(neighbors=2).fit(torch.eye(2), torch.tensor([0, 1]), pool, 2)
        >>> classifier(pool).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """

    recipe: ClassVar[Mapping[str, int | str]] = {"steps": 0, "tune": "head"}

    def __init__(
        self, neighbors: int = 15, alpha: float = 0.9, c: float = 1.0, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_at_least("label_propagation.neighbors", neighbors, 1)
        check_share("label_propagation.alpha", alpha)
        check_at_least("label_propagation.c", c)
        self.neighbors, self.alpha, self.c = neighbors, alpha, c

    def fit(self, labeled: Tensor, labels: Tensor, unlabeled: Tensor, num_classes: int) -> nn.Module:
        """Spreads the labels, and fits the classifier to labels and what was spread."""
        features = torch.cat([labeled, unlabeled])
        seeds = torch.zeros(len(features), num_classes)
        seeds[: len(labeled)] = F.one_hot(labels, num_classes).float()
        scores = spread_labels(features, seeds, self.neighbors, self.alpha)
        probabilities = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-30)
        sure = probabilities.amax(dim=1, keepdim=True)
        targets = sure * F.one_hot(probabilities.argmax(dim=1), num_classes)
        targets[scores.sum(dim=1) == 0] = 0.0  # no label reaches these
        targets[: len(labeled)] = seeds[: len(labeled)]
        return linear_layer(*logistic_regression(features, targets, num_classes, self.c))


def spread_labels(features: Tensor, seeds: Tensor, neighbors: int, alpha: float) -> Tensor:
    """Scores of classes after spreading.

    Args:
        features: ``(n, D)``.
        seeds: ``(n, C)``: one-hot where the class is known, else 0.
        neighbors: Of each image in the graph.
        alpha: Share of an image's scores that comes from its neighbors.

    Returns:
        ``(n, C)``.
    """
    matrix = _normalized_graph(features, min(neighbors, len(features) - 1))
    scores = seeds.clone()
    for _ in range(_MOST_ITERATIONS):
        before, scores = scores, alpha * torch.sparse.mm(matrix, scores) + (1.0 - alpha) * seeds
        if (scores - before).abs().max() <= _CHANGE * scores.abs().max():
            break
    return scores


def _normalized_graph(features: Tensor, neighbors: int) -> Tensor:
    """``D^-1/2 W D^-1/2``, sparse; W_ij is 1 where i and j are among each other's neighbors, 1/2 where one is."""
    unit, n = F.normalize(features), len(features)
    nearest = []
    for start in range(0, n, _ROWS):
        cosine = unit[start : start + _ROWS] @ unit.T
        rows = torch.arange(len(cosine))
        cosine[rows, start + rows] = -2.0  # not its own neighbor
        nearest.append(cosine.topk(neighbors, dim=1).indices)
    columns = torch.cat(nearest).flatten()
    rows = torch.arange(n).repeat_interleave(neighbors)
    there = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    graph = torch.sparse_coo_tensor(there, torch.full((there.shape[1],), 0.5), (n, n), check_invariants=True).coalesce()
    degree = torch.zeros(n).index_add_(0, graph.indices()[0], graph.values()).rsqrt()
    values = graph.values() * degree[graph.indices()[0]] * degree[graph.indices()[1]]
    return torch.sparse_coo_tensor(graph.indices(), values, (n, n), check_invariants=True)
