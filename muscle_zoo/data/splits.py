"""Which images are labelled: a pure function of (data set, labels, seed), the same on every machine.

Each class's images are ordered by ``sha256("SEED/INDEX")`` and the first k are taken; no random generator is involved.
So a larger budget of the same seed contains the smaller one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

DEV_SHARE = 5  # one in five training images


@dataclass(frozen=True)
class Split:
    """The images of a run, as positions among the training images.

    Attributes:
        dataset: Name of the data set.
        labels: Label budget.
        seed: The seed that ordered the images.
        fold: ``test`` or ``dev``.
        labelled: Sorted positions of the labelled images.
        unlabelled: Sorted positions of the unlabelled pool; it contains the labelled images.
        held_out: Sorted positions of the dev fold when ``fold`` is ``dev``: seen by nothing but the evaluation.
    """

    dataset: str
    labels: int
    seed: int
    fold: str
    labelled: tuple[int, ...]
    unlabelled: tuple[int, ...]
    held_out: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Hash of the labelled positions."""
        return indices_sha256(self.labelled)

    def to_dict(self) -> dict[str, Any]:
        """What split.json holds."""
        return {
            "dataset": self.dataset,
            "labels": self.labels,
            "seed": self.seed,
            "bias": "none",
            "fold": self.fold,
            "sha256": self.sha256,
            "labelled": list(self.labelled),
            "unlabelled": {"count": len(self.unlabelled), "sha256": indices_sha256(self.unlabelled)},
            "held_out": {"count": len(self.held_out), "sha256": indices_sha256(self.held_out)},
        }


def indices_sha256(indices: Sequence[int]) -> str:
    """Hash of positions: of their JSON list without spaces."""
    return hashlib.sha256(json.dumps(list(indices), separators=(",", ":")).encode()).hexdigest()


def hash_order(key: str, indices: Iterable[int]) -> list[int]:
    """Positions ordered by ``sha256("KEY/POSITION")``."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{key}/{index}".encode()).digest())


def dev_fold(dataset: str, num_train: int) -> tuple[int, ...]:
    """The fixed fifth of the training images whose labels serve choosing recipes and nothing else."""
    return tuple(sorted(hash_order(f"{dataset}/dev", range(num_train))[: num_train // DEV_SHARE]))


def make_split(dataset: str, classes: Sequence[int], num_classes: int, labels: int, seed: int, fold: str) -> Split:
    """Chooses the labelled images, balanced over the classes.

    A budget that the number of classes does not divide gives one image more to some classes, chosen by hash.

    Args:
        dataset: Name of the data set.
        classes: The class of each training image.
        num_classes: How many classes there are.
        labels: Label budget.
        seed: Orders the images.
        fold: ``test``: every training image may be used; ``dev``: all but the dev fold, which is held out.

    Returns:
        The split.

    Raises:
        InputError: The budget is below one a class, or a class has too few images.
    """
    if labels < num_classes:
        raise InputError(
            f"labels={labels} is below one a class: {dataset} has {num_classes} classes, give at least that"
        )
    held_out = dev_fold(dataset, len(classes)) if fold == "dev" else ()
    pool = sorted(set(range(len(classes))) - set(held_out))
    if labels > len(pool):
        raise InputError(f"labels={labels} is beyond the data: {dataset} has {len(pool)} training images")
    with_one_more = hash_order(f"{seed}/classes", range(num_classes))[: labels % num_classes]
    labelled: list[int] = []
    for label in range(num_classes):
        wanted = labels // num_classes + (label in with_one_more)
        members = [index for index in pool if classes[index] == label]
        if wanted > len(members):
            raise InputError(
                f"labels={labels} asks for {wanted} images of class {label}, {dataset} has {len(members)}; "
                f"give at most {num_classes * min(_counts(classes, pool, num_classes))}"
            )
        labelled += hash_order(str(seed), members)[:wanted]
    return Split(dataset, labels, seed, fold, tuple(sorted(labelled)), tuple(pool), held_out)


def _counts(classes: Sequence[int], pool: Sequence[int], num_classes: int) -> list[int]:
    counts = [0] * num_classes
    for index in pool:
        counts[classes[index]] += 1
    return counts
