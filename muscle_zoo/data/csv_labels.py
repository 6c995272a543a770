"""What people write into the cell of a label: nothing in many words, ``['cat']``, numbers that became fractions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .part_names import UNLABELED, part_of

# No class is called so. "none" may be one, of pictures without a defect, so it is left.
_NOTHING = {"nan", "null", "na", "n/a", "#n/a", "<na>", "?", "-", "nolabel", "not labeled", "not labelled"}


def tidy_labels(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Labels as they were meant, and what was understood where that is not what is written.

    Example:
        >>> tidy_labels(["1.0", "0.0", "NaN"])
        (['1', '0', ''], ["labels 'NaN' are none", 'labels 1.0 are read as 1'])
        >>> tidy_labels(["['cat']", "['dog']"])
        (['cat', 'dog'], ["labels in brackets, as ['cat']"])
    """
    words = []
    tidy = [_without_brackets(label) for label in labels]
    if boxed := [label for label, plain in zip(labels, tidy, strict=True) if label != plain]:
        words.append(f"labels in brackets, as {boxed[0]}")
    others = {label for label in tidy if label and not _is_nothing(label)}
    nothing = {label for label in tidy if label and _is_nothing(label)}
    if "-1" in others and len(others) > 2 and others - {"-1"} == {str(i) for i in range(len(others) - 1)}:
        nothing.add("-1")
    if nothing:
        words.append(f"labels {', '.join(repr(label) for label in sorted(nothing))} are none")
        tidy = ["" if label in nothing else label for label in tidy]
    if (left := {label for label in tidy if label}) and all(re.fullmatch(r"-?\d+\.0+", label) for label in left):
        first = next(label for label in tidy if label)
        words.append(f"labels {first} are read as {first.partition('.')[0]}")
        tidy = [label.partition(".")[0] for label in tidy]
    return tidy, words


def _is_nothing(label: str) -> bool:
    return label.lower() in _NOTHING or part_of(label) == UNLABELED


def _without_brackets(label: str) -> str:
    """``['cat']`` and ``["cat"]`` as ``cat``; several stay as they are."""
    match = re.fullmatch(r"""\[\s*(?P<quote>['"])(?P<name>[^'"]*)(?P=quote)\s*\]""", label)
    return match["name"].strip() if match else label
