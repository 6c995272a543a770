"""Which labeled pictures each fold of a cross-validation holds out: a pure function of (labels, seed)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.drawing import by_class, hash_order

PREDICTIONS = 300  # of held-out pictures that there are to be, all repeats together
MOST_REPEATS = 3
NEVER = -1


def number_of_folds(classes: Sequence[int], num_classes: int, asked: int) -> tuple[int, int]:
    """How many folds, and how often the pictures are divided anew: more often, the fewer there are.

    A picture that is the only one of its class is never held out, for nothing would be left to learn its class from.

    Args:
        classes: Of the labeled pictures.
        num_classes: C.
        asked: Folds that are wanted.

    Returns:
        Folds, and repeats; 0 and 0 where no class has two pictures.

    Example:
        >>> number_of_folds([0, 0, 0, 1, 1, 1], 2, 5), number_of_folds([0, 1], 2, 5)
        ((5, 3), (0, 0))
    """
    sizes = [len(ids) for ids in by_class(range(len(classes)), classes, num_classes)]
    held_out = sum(size for size in sizes if size > 1)
    if not held_out:
        return 0, 0
    return min(asked, held_out), max(1, min(MOST_REPEATS, -(-PREDICTIONS // held_out)))


def draw_folds(classes: Sequence[int], num_classes: int, folds: int, repeats: int, seed: int) -> Tensor:
    """The fold that holds each labeled picture out.

    Stratified: the pictures of a class go to the folds in turn, so that each fold has as many of it, give or take one,
    and no fold has all of them.

    Args:
        classes: Of the labeled pictures, ``n`` of them.
        num_classes: C.
        folds: At least 2.
        repeats: R: how often they are divided.
        seed: Orders the pictures.

    Returns:
        ``(R, n)`` int64, :data:`NEVER` for a picture that is the only one of its class.

    Example:
        >>> draw_folds([0, 0, 1, 1, 2], 3, folds=2, repeats=1, seed=0).sort(dim=1).values.tolist()
        [[-1, 0, 0, 1, 1]]
    """
    drawn = torch.full((repeats, len(classes)), NEVER)
    members = by_class(range(len(classes)), classes, num_classes)
    for repeat in range(repeats):
        given = 0  # goes on from class to class, so that the folds are of one size
        for ids in members:
            if len(ids) < 2:
                continue
            for position in hash_order(f"{seed}/folds/{repeat}", ids):
                drawn[repeat, position] = given % folds
                given += 1
    return drawn
