"""Which pictures to label next: rules that rank the unlabeled ones.

Each rule yields positions, the best first, with a score that says why. None draws random numbers but by the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, suggest

CANDIDATES = 10  # of each picture that is asked for, `diverse` looks at so many of the least sure
CLUSTERS = 500  # at most, of `typical`; the paper's number, too
NEIGHBORS = 20  # that tell how typical a picture is
_TWINS = 1 - 1e-5  # cosine of two embeddings from which on the pictures are one
_LEAST_STD = 1e-3  # as a share of the mean one

Ranked = Iterator[tuple[int, float]]


@dataclass(frozen=True)
class Pool:
    """The pictures to choose from, and what is known of them.

    Attributes:
        probabilities: ``(U, C)`` of the unlabeled ones, calibrated.
        embeddings: ``(U, D)`` of them.
        labeled: ``(L, D)`` embeddings of the labeled ones; L may be 0.
        teacher: ``(U, C)`` probabilities of averaged weights, for ``disagreement``.
        students: ``(S, U, C)`` those of plain weights.
        seed: Of k-means and of ``random``.
    """

    probabilities: Tensor
    embeddings: Tensor
    labeled: Tensor
    teacher: Tensor | None = None
    students: Tensor | None = None
    seed: int = 0

    def unit(self) -> tuple[Tensor, Tensor]:
        """Embeddings of both, standardized over the unlabeled ones and brought to norm 1."""
        mean, std = self.embeddings.mean(dim=0), self.embeddings.std(dim=0, correction=0)
        std = std.clamp(min=float(_LEAST_STD * std.mean()) or 1.0)
        both = [(part.float() - mean) / std for part in (self.embeddings, self.labeled)]
        unlabeled, labeled = (part / part.norm(dim=1, keepdim=True).clamp(min=1e-12) for part in both)
        return unlabeled, labeled


@dataclass(frozen=True)
class Choice:
    """A picture to label: its position among the unlabeled ones, and the rule's score."""

    position: int
    score: float


def choose(rule: str, pool: Pool, number: int) -> list[Choice]:
    """The pictures to label next.

    No picture comes twice, and of pictures that look the same to the network (to a labeled one, too) only one, unless
    there are no others.

    Args:
        rule: One of :data:`RULES`.
        pool: The pictures.
        number: How many; all where there are fewer.

    Returns:
        The best first.

    Raises:
        InputError: There is no such rule.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]])
        >>> pool = Pool(probabilities, torch.eye(3), torch.zeros(0, 3))
        >>> [choice.position for choice in choose("margin", pool, 2)]
        [1, 2]
    """
    if rule not in RULES:
        raise InputError(f"--rule {rule} is unknown; {suggest(rule, RULES)}")
    unit, labeled = pool.unit()
    chosen: list[Choice] = []
    twins: list[Choice] = []
    others = labeled
    for position, score in RULES[rule](pool, number):
        if len(chosen) == number:
            break
        picture = unit[position]
        if len(others) and float((others @ picture).max()) > _TWINS:
            twins.append(Choice(position, score))
            continue
        chosen.append(Choice(position, score))
        others = torch.cat([others, picture[None]])
    return (chosen + twins)[:number]


def margin(pool: Pool, number: int) -> Ranked:
    """The least sure first: 1 less the difference of the two largest probabilities (Scheffer et al. 2001)."""
    return _by(uncertainty(pool.probabilities))


def uncertainty(probabilities: Tensor) -> Tensor:
    """1 less the margin between the two most probable classes, ``(n,)``: 0 sure, 1 undecided."""
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
    return 1 - (best[:, 0] - best[:, -1]) if best.shape[1] > 1 else torch.zeros(len(best))


def disagreement(pool: Pool, number: int) -> Ranked:
    """Where averaged and plain weights disagree the most.

    The mean over the students of the Kullback-Leibler divergence from the teacher, as in ST-CoNAL (Baik et al., arXiv
    2207.02182), whose teacher is the average of its students, sharpened; here it is the EMA, as it is.
    """
    assert pool.teacher is not None and pool.students is not None
    teacher, students = (p.clamp(min=1e-12).log() for p in (pool.teacher, pool.students))
    return _by((pool.teacher * (teacher - students)).sum(dim=-1).mean(dim=0))


def coreset(pool: Pool, number: int) -> Ranked:
    """The picture farthest from all labeled and chosen ones, again and again (k-center greedy).

    Sener & Savarese, arXiv 1708.00489, algorithm 1. The score is that distance, of embeddings brought to norm 1.
    """
    unit, labeled = pool.unit()
    first = unit.mean(dim=0)[None] if not len(labeled) else labeled
    nearest = torch.cdist(unit, first).min(dim=1).values
    left = torch.ones(len(unit), dtype=torch.bool)
    for _ in range(len(unit)):
        position = int(nearest.where(left, -1.0).argmax())
        yield position, float(nearest[position])
        left[position] = False
        nearest = torch.minimum(nearest, (unit - unit[position]).norm(dim=1))


def diverse(pool: Pool, number: int) -> Ranked:
    """The least sure of each of as many clusters as are asked for, among the least sure ones in all.

    As in Cluster-Margin (Citovsky et al., arXiv 2107.14263), with k-means. The score is the margin's.
    """
    unit, _ = pool.unit()
    scores = uncertainty(pool.probabilities)
    ranked = _order(scores)
    candidates = ranked[: CANDIDATES * number]
    if len(candidates) > number:
        clusters = _clusters(unit[candidates], number, pool.seed)
        _, firsts = np.unique(clusters, return_index=True)  # candidates are in order: the least sure of each
        candidates = candidates[torch.from_numpy(np.sort(firsts))]
    taken = set(candidates.tolist())
    for position in [*candidates.tolist(), *(i for i in ranked.tolist() if i not in taken)]:
        yield position, float(scores[position])


def typical(pool: Pool, number: int) -> Ranked:
    """The most typical picture of the largest clusters that have the fewest labels.

    TypiClust (Hacohen et al., arXiv 2202.02794): as many clusters as there will be labels; the score is 1 over the mean
    distance to the nearest neighbors in the cluster.
    """
    unit, labeled = pool.unit()
    together = torch.cat([unit, labeled])
    clusters = _clusters(together, min(len(labeled) + number, len(together), CLUSTERS), pool.seed)
    known = np.bincount(clusters[len(unit) :], minlength=clusters.max() + 1)
    size = np.bincount(clusters, minlength=clusters.max() + 1)
    ranks: list[list[tuple[int, float]]] = []
    for cluster in sorted(range(len(size)), key=lambda c: (known[c], -size[c], c)):
        members = np.flatnonzero(clusters[: len(unit)] == cluster)
        if len(members):
            scores = _typicality(unit[torch.from_numpy(members)])
            ranks.append([(int(members[i]), float(scores[i])) for i in _order(scores).tolist()])
    for depth in range(max(map(len, ranks), default=0)):  # one of each, then the second of each
        yield from (rank[depth] for rank in ranks if depth < len(rank))


def random(pool: Pool, number: int) -> Ranked:
    """Pictures by chance: what every other rule has to be better than."""
    order = np.random.default_rng(pool.seed).permutation(len(pool.probabilities))
    return ((int(position), 0.0) for position in order)


def _typicality(unit: Tensor) -> Tensor:
    count = min(NEIGHBORS + 1, len(unit))
    nearest = torch.cdist(unit, unit).topk(count, largest=False).values
    return 1 / nearest.sum(dim=1).div(max(1, count - 1)).clamp(min=1e-6)


def _clusters(points: Tensor, number: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans  # slow to import

    return np.asarray(KMeans(number, n_init=1, max_iter=50, random_state=seed).fit_predict(points.numpy()))


def _order(scores: Tensor) -> Tensor:
    """Positions by score, the largest first, those of equal score by position."""
    return scores.argsort(descending=True, stable=True)


def _by(scores: Tensor) -> Ranked:
    return ((position, float(scores[position])) for position in _order(scores).tolist())


RULES: dict[str, Callable[[Pool, int], Ranked]] = {
    "diverse": diverse,
    "margin": margin,
    "coreset": coreset,
    "disagreement": disagreement,
    "typical": typical,
    "random": random,
}
DEFAULT_RULE = "diverse"
