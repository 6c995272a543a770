"""What held-out predictions and embeddings say of the labels: confidence, probable label errors, near duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.held_out import best_temperature

ALL_PAIRS = 6000  # pictures, up to which every pair is looked at
_CHUNK = 512


def calibrate_folds(probabilities: Tensor, labels: Tensor, fold: Tensor) -> Tensor:
    """Out-of-fold probabilities at temperatures that never saw the picture they are of.

    Each fold gets the temperature that is best for the other folds of its repeat; where there is no other, that of no
    picture at all, which is 1.

    Args:
        probabilities: ``(R, n, C)``; rows of pictures that were never held out may be nan.
        labels: ``(n,)``.
        fold: ``(R, n)``; -1 for never held out.

    Returns:
        ``(n, C)``, the mean over the repeats; nan for pictures never held out.
    """
    logits = probabilities.float().clamp(min=1e-8).log()
    calibrated = torch.full_like(logits, torch.nan)
    for repeat in range(len(fold)):
        for number in fold[repeat][fold[repeat] >= 0].unique():
            inside = fold[repeat] == number
            others = (fold[repeat] >= 0) & ~inside
            temperature = best_temperature(logits[repeat, others], labels[others], int(others.sum()))
            calibrated[repeat, inside] = (logits[repeat, inside] / temperature).softmax(dim=1)
    return calibrated.mean(dim=0)


@dataclass(frozen=True)
class LabelError:
    """A picture whose label is probably wrong.

    Attributes:
        position: Of the picture.
        given: Its label.
        likely: The class that it probably is.
        margin: Probability of its label less that of the likely one: the lower, the surer.
    """

    position: int
    given: int
    likely: int
    margin: float


def probable_label_errors(probabilities: Tensor, labels: Tensor) -> list[LabelError]:
    """Pictures whose label is probably wrong, the surest first.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068, section 3.1): a picture counts as of class j if its
    probability of j is at least the mean one of the pictures that are labeled j; of several such classes the most
    probable. Those that count as another class than their label, and as one that is more probable than it, are
    returned, ordered by their margin.

    Args:
        probabilities: ``(n, C)``, out of fold.
        labels: ``(n,)``.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95]])
        >>> [error.position for error in probable_label_errors(p, torch.tensor([0, 0, 1, 1, 0]))]
        [4]
    """
    classes = probabilities.shape[1]
    thresholds = torch.full((classes,), torch.inf)
    for label in labels.unique().tolist():
        thresholds[label] = probabilities[labels == label, label].mean()
    confident = probabilities.where(probabilities >= thresholds, -1.0)
    best = confident.max(dim=1)
    found = []
    for position in range(len(labels)):
        given, likely = int(labels[position]), int(best.indices[position])
        if float(best.values[position]) >= 0 and likely != given:
            margin = float(probabilities[position, given] - probabilities[position, likely])
            if margin < 0:
                found.append(LabelError(position, given, likely, margin))
    return sorted(found, key=lambda error: (error.margin, error.position))


@dataclass(frozen=True)
class Pair:
    """Two pictures that look alike to the network, the earlier position first."""

    first: int
    second: int
    cosine: float


def near_duplicates(unit: Tensor, labeled: Tensor, least: float = 0.95) -> list[Pair]:
    """Pairs of pictures whose embeddings are almost the same, the most alike first.

    Up to ``ALL_PAIRS`` pictures every pair is looked at, of more those with a labeled picture.

    Args:
        unit: ``(N, D)`` embeddings, standardized and of norm 1.
        labeled: Positions of the labeled ones.
        least: The cosine from which on two are a pair.
    """
    rows = torch.arange(len(unit)) if len(unit) <= ALL_PAIRS else labeled
    found: dict[tuple[int, int], float] = {}
    for chunk in rows.split(_CHUNK):
        cosines = unit[chunk] @ unit.T
        for row, column in (cosines >= least).nonzero().tolist():
            first = int(chunk[row])
            if first != column:
                found[min(first, column), max(first, column)] = float(cosines[row, column])
    return sorted((Pair(*pair, value) for pair, value in found.items()), key=lambda p: (-p.cosine, p.first, p.second))
