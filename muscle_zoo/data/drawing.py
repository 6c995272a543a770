"""How images are drawn: in an order by hash, so many of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def hash_order(key: str, indices: Iterable[int]) -> list[int]:
    """Positions ordered by ``sha256("KEY/POSITION")``."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{key}/{index}".encode()).digest())


def by_class(indices: Iterable[int], classes: Sequence[int], num_classes: int) -> list[list[int]]:
    """Positions of each class, in the order given; those without a label are left out."""
    members: list[list[int]] = [[] for _ in range(num_classes)]
    for index in indices:
        if classes[index] >= 0:
            members[classes[index]].append(index)
    return members


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to weights, by the largest remainder, the first of equal ones.

    Every weight above 0 gets at least 1 where the total allows it.
    """
    least = [1 if weight > 0 and total >= sum(w > 0 for w in weights) else 0 for weight in weights]
    ideal = [max(total * weight / sum(weights), low) for weight, low in zip(weights, least, strict=True)]
    parts = [int(share) for share in ideal]
    order = sorted(range(len(weights)), key=lambda i: (parts[i] - ideal[i], i))
    while sum(parts) < total:
        for i in order[: total - sum(parts)]:
            parts[i] += 1
    while sum(parts) > total:  # the least of 1 made it too many: the largest give
        largest = max(range(len(parts)), key=lambda i: (parts[i], -i))
        parts[largest] -= 1
    return parts
