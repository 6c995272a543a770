"""Which images are labeled: a pure function of (data set, budget, seed), the same on every machine.

Each class's images are ordered by ``sha256("SEED/INDEX")`` and the first k are taken. A hash and not a random
generator, because its order is the same in every version of every library and in any language: anybody can check a
published split. And a larger budget of the same seed contains the smaller one.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, Notice
from .catalog import FOLDER
from .drawing import apportion, by_class, hash_order
from .held_out import dev_part, validation_share
from .images import OUTSIDE
from .listing import SHOWN

NO_BIAS = "none"


@dataclass(frozen=True)
class Budget:
    """Which images a run may see, and with how many labels.

    Attributes:
        labels: Labeled images, or a share of all images that have a label, such as ``10pct``.
        seed: Orders the images.
        fold: ``test``, ``dev`` (see :func:`dev_fold`), ``validation`` or ``labeled``: what the run is evaluated on.
        bias: ``none``: as many labels of each class; ``imbalance:R``: geometrically fewer from the first class to the
            last, by R in all.
        unlabeled_bias: The same of the unlabeled pool; ``none`` leaves the pool as it is.
        mismatch: Share of the unlabeled pool that is of classes outside the task (Oliver et al. 2018, arXiv
            1804.09170). With images outside the task the pool has as many images as the smaller of the two sides,
            whatever the share.
        validation: Share of the labeled images that is held out of training.
        given: Positions of the labeled images, when they were drawn elsewhere.
    """

    labels: int | str
    seed: int = 0
    fold: str = "test"
    bias: str = NO_BIAS
    unlabeled_bias: str = NO_BIAS
    mismatch: float = 0.0
    validation: float = 0.0
    given: tuple[int, ...] | None = None

    @property
    def words(self) -> str:
        """What is not balanced about it, for the ledger: ``none``, or ``imbalance:10+unlabeled:imbalance:10``."""
        words = [self.bias] if self.bias != NO_BIAS else []
        words += [f"unlabeled:{self.unlabeled_bias}"] if self.unlabeled_bias != NO_BIAS else []
        words += [f"mismatch:{self.mismatch:g}"] if self.mismatch else []
        words += ["given"] if self.given is not None else []
        return "+".join(words) or NO_BIAS


@dataclass(frozen=True)
class Split:
    """The images of a run, as positions among the training images.

    Attributes:
        dataset: Name of the data set.
        labels: Label budget: labeled images, those of the validation share included.
        seed: The seed that ordered the images.
        fold: ``test``, ``dev``, ``validation`` or ``labeled``.
        labeled: Sorted positions of the labeled images.
        unlabeled: Sorted positions of the unlabeled pool; it contains the labeled images.
        held_out: Sorted positions of the dev fold or the validation images, seen by nothing but the evaluation; of the
            fold ``labeled``, the labeled images themselves.
        bias: See :attr:`Budget.words`.
    """

    dataset: str
    labels: int
    seed: int
    fold: str
    labeled: tuple[int, ...]
    unlabeled: tuple[int, ...]
    held_out: tuple[int, ...]
    bias: str = NO_BIAS

    @property
    def sha256(self) -> str:
        """Hash of the labeled positions."""
        return indices_sha256(self.labeled)

    def to_dict(self, names: Sequence[str] = (), test_names: Sequence[str] = ()) -> dict[str, Any]:
        """What split.json holds.

        Args:
            names: Of all training images, where they have names: those of the labeled ones are written too.
            test_names: Of the test images, likewise.
        """
        values = {
            "dataset": self.dataset,
            "labels": self.labels,
            "seed": self.seed,
            "bias": self.bias,
            "fold": self.fold,
            "sha256": self.sha256,
            "labelled": list(self.labeled),
            "unlabelled": {"count": len(self.unlabeled), "sha256": indices_sha256(self.unlabeled)},
            "held_out": {"count": len(self.held_out), "sha256": indices_sha256(self.held_out)},
        }
        if names:
            values["names"] = [names[index] for index in self.labeled]
            values["names_sha256"] = names_sha256(names)
            values["test"] = {"count": len(test_names), "names_sha256": names_sha256(test_names)}
        return values


def indices_sha256(indices: Sequence[int]) -> str:
    """Hash of positions: of their JSON list without spaces."""
    return hashlib.sha256(json.dumps(list(indices), separators=(",", ":")).encode()).hexdigest()


def names_sha256(names: Sequence[str]) -> str:
    """Hash of file names: of their lines."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def geometric(field: str, bias: str, num_classes: int) -> list[float]:
    """Weights of the classes: 1 for the first, falling geometrically to 1 / R for the last; all 1 for ``none``.

    Raises:
        InputError: The bias is not ``none`` or ``imbalance:R`` with R of 1 or more.
    """
    if bias == NO_BIAS:
        return [1.0] * num_classes
    match = re.fullmatch(r"imbalance:(\d+(?:\.\d+)?)", bias)
    if match is None or float(match[1]) < 1:
        raise InputError(
            f"{field}={bias} is wrong; write none or imbalance:R with R of 1 or more, such as imbalance:10"
        )
    return [float(match[1]) ** (-label / max(num_classes - 1, 1)) for label in range(num_classes)]


def make_split(
    dataset: str, classes: Sequence[int], num_classes: int, budget: Budget, class_names: Sequence[str] = ()
) -> Split:
    """Chooses the labeled images and the unlabeled pool.

    A budget that the number of classes does not divide gives one image more to some classes, chosen by hash. A budget
    of all labeled images takes them as they are. Of the user's own pictures, a budget that some class has too few for
    is drawn in proportion to what each class has, and the dev fold is of labeled pictures alone.

    Args:
        dataset: Name of the data set.
        classes: The class of each training image; negative for one without a label.
        num_classes: How many classes there are.
        budget: How many labels, and which images.
        class_names: For the messages; the classes' numbers by default.

    Returns:
        The split.

    Raises:
        InputError: The budget is below one a class, or a class has too few images, or the budget's parts do not fit.
    """
    class_names = class_names or [str(label) for label in range(num_classes)]
    dev = dev_part(dataset, classes, class_names) if budget.fold == "dev" else ()
    pool = sorted(set(range(len(classes))) - set(dev))
    members = by_class(pool, classes, num_classes)
    counts = [len(of_class) for of_class in members]
    labels = _number_of_labels(budget.labels, sum(counts))
    if budget.given is not None:
        labeled = _check_given(budget.given, labels, classes, class_names, set(dev))
    else:
        held = sum(classes[index] >= 0 for index in dev) if dataset == FOLDER else 0
        per_class = _labels_per_class(dataset, labels, counts, budget, class_names, held)
        labeled = [i for ids, k in zip(members, per_class, strict=True) for i in hash_order(str(budget.seed), ids)[:k]]
    validation = validation_share(dataset, labeled, classes, class_names, budget.fold, budget.validation, budget.seed)
    held_out = tuple(sorted(validation)) if budget.fold == "validation" else dev
    visible = sorted(set(pool) - validation)
    unlabeled = _pool(dataset, visible, set(labeled) - validation, classes, num_classes, budget)
    chosen = tuple(sorted(set(labeled) - validation))
    held_out = chosen if budget.fold == "labeled" else held_out
    return Split(dataset, labels, budget.seed, budget.fold, chosen, unlabeled, held_out, budget.words)


def _number_of_labels(labels: int | str, available: int) -> int:
    """A budget as a number: it may be a share of the images that have a label."""
    if isinstance(labels, int):
        return labels
    share = re.fullmatch(r"(\d+)pct", labels)
    if share is None or not 1 <= int(share[1]) <= 100:
        raise InputError(f"labels={labels} is wrong; give a number, or 1pct to 100pct")
    return round(available * int(share[1]) / 100)


def _labels_per_class(
    dataset: str, labels: int, counts: Sequence[int], budget: Budget, class_names: Sequence[str], held: int
) -> list[int]:
    """How many labeled images of each class; of the user's own pictures ``held`` labels are in the dev fold."""
    num_classes = len(counts)
    if labels < num_classes:
        raise InputError(
            f"labels={labels} is fewer than one per class: {dataset} has {num_classes}; give at least that"
        )
    if empty := [name for name, count in zip(class_names, counts, strict=True) if not count]:
        raise InputError(
            f"class {empty[0]!r} of {dataset} has no label to learn from; label more of it, or leave it out"
        )
    if sum(counts) < labels <= sum(counts) + held:
        text = (
            f"labels={labels}: fold=dev holds out {held} of the {sum(counts) + held} labels, so {sum(counts)} are used"
        )
        warnings.warn(text, Notice, stacklevel=4)
        labels = sum(counts)
    if labels > sum(counts):
        raise InputError(
            f"labels={labels} is more than there are: {dataset} has {sum(counts)} labeled images; give "
            f"labels={sum(counts)} or labels=all"
        )
    if budget.bias == NO_BIAS:
        if labels == sum(counts):
            return list(counts)
        with_one_more = hash_order(f"{budget.seed}/classes", range(num_classes))[: labels % num_classes]
        per_class = [labels // num_classes + (label in with_one_more) for label in range(num_classes)]
    else:
        per_class = apportion(labels, geometric("bias", budget.bias, num_classes))
    short = [label for label in range(num_classes) if per_class[label] > counts[label]]
    if short and dataset == FOLDER and budget.bias == NO_BIAS:
        per_class = apportion(labels, [float(count) for count in counts])
        drawn = ", ".join(f"{name} {k}" for name, k in list(zip(class_names, per_class, strict=True))[:SHOWN])
        text = (
            f"labels={labels}: {class_names[short[0]]} has {counts[short[0]]}, so they are drawn in proportion: {drawn}"
        )
        warnings.warn(text, Notice, stacklevel=4)
    elif short:
        raise _too_few(dataset, labels, short[0], per_class, counts, budget, class_names)
    return per_class


def _too_few(
    dataset: str,
    labels: int,
    label: int,
    per_class: Sequence[int],
    counts: Sequence[int],
    budget: Budget,
    class_names: Sequence[str],
) -> InputError:
    """What to say where a class has fewer labeled images than a budget asks for."""
    even = budget.bias == NO_BIAS
    remedy = f"give at most {len(counts) * min(counts)}, or {sum(counts)} for all of them" if even else "give fewer"
    return InputError(
        f"labels={labels} asks for {per_class[label]} images of class {class_names[label]}, {dataset} has "
        f"{counts[label]}; {remedy}"
    )


def _check_given(
    given: Sequence[int], labels: int, classes: Sequence[int], class_names: Sequence[str], dev: set[int]
) -> list[int]:
    for index in given:
        if not 0 <= index < len(classes):
            raise InputError(f"split: position {index} does not exist; there are {len(classes)} training images")
        if classes[index] < 0:
            raise InputError(f"split: image {index} has no label of the task; leave it out")
        if index in dev:
            raise InputError(f"split: image {index} is in the dev fold; give fold=test")
    if len(set(given)) < len(given):
        raise InputError("split: an image is listed twice; keep one")
    if len(given) != labels:
        raise InputError(f"split lists {len(given)} images, labels={labels}; give labels={len(given)}")
    if missing := set(range(len(class_names))) - {classes[index] for index in given}:
        name = class_names[min(missing)]
        raise InputError(f"split: no image of class {name} is listed; list one of each class or more")
    return list(given)


def _pool(
    dataset: str,
    visible: Sequence[int],
    labeled: set[int],
    classes: Sequence[int],
    num_classes: int,
    budget: Budget,
) -> tuple[int, ...]:
    """The unlabeled pool: the labeled images, then others by hash."""

    def first(ids: Iterable[int], k: int) -> list[int]:
        ordered = hash_order(f"{budget.seed}/unlabelled", ids)  # the British word: published pools were drawn with it
        return sorted(ordered, key=lambda i: i not in labeled)[:k]  # stable: the labeled ones come first

    inside = [i for i in visible if classes[i] != OUTSIDE]
    outside = [i for i in visible if classes[i] == OUTSIDE]
    if budget.unlabeled_bias != NO_BIAS:
        weights = geometric("unlabeled_bias", budget.unlabeled_bias, num_classes)
        members = by_class(inside, classes, num_classes)
        if sum(map(len, members)) < len(inside):
            raise InputError(
                f"unlabeled_bias={budget.unlabeled_bias}: {dataset} has images of unknown class; leave it out"
            )
        most = min(len(ids) / weight for ids, weight in zip(members, weights, strict=True))
        balanced = [
            first(ids, max(round(most * weight), sum(i in labeled for i in ids)))
            for ids, weight in zip(members, weights, strict=True)
        ]
        inside = sorted(i for ids in balanced for i in ids)
    if not outside:
        if budget.mismatch:
            raise InputError(
                f"mismatch={budget.mismatch}: no image is of a class outside the task; name its classes (classes=2+3+4)"
            )
        return tuple(sorted(inside))
    if budget.mismatch and any(classes[i] < 0 for i in inside):
        raise InputError(f"mismatch={budget.mismatch}: {dataset} has images of unknown class; leave it out")
    size = min(len(inside), len(outside))
    foreign = first(outside, round(budget.mismatch * size))
    return tuple(sorted([*first(inside, max(size - len(foreign), len(labeled))), *foreign]))
