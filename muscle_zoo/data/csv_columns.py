"""Columns of 0 and 1: a column for each class (one-hot), or a column that says which rows are of the test."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .part_names import LABELED, TEST, VALIDATION, part_of

Lines = list[tuple[int, list[str]]]

_YES = {"1", "1.0", "true", "yes", "y", "t", "x"}
_NO = {"0", "0.0", "false", "no", "n", "f", ""}


def split_of_flags(
    header: Sequence[str], lines: Lines, taken: Sequence[int]
) -> tuple[list[str], list[int], str] | None:
    """The split of each row by columns such as ``is_test``, those columns, and what was understood; None without any.

    Args:
        header: Names of the columns.
        lines: Line number and cells of each row, as many as there are columns.
        taken: Columns that mean something else.

    Example:
        >>> split_of_flags(["path", "is_test"], [(2, ["a", "True"]), (3, ["b", "False"])], [0])
        (['test', ''], [1], "split is 'is_test'")
    """
    flags: dict[str, int] = {}
    for at, name in enumerate(header):
        if at not in taken and (match := re.fullmatch(r"(?:is|in)[\W_]*(\w+)", name.strip(), re.I)):
            part = part_of(match[1])
            if part in (LABELED, VALIDATION, TEST) and _are_flags(lines, at):
                flags.setdefault(part, at)
    if not flags:
        return None
    splits = []
    for _, cells in lines:
        part = next((part for part in (TEST, VALIDATION) if part in flags and _is_yes(cells[flags[part]])), "")
        if not part and LABELED in flags and not _is_yes(cells[flags[LABELED]]):
            part = TEST if TEST not in flags else VALIDATION
        splits.append(part)
    return splits, [*flags.values()], "split is " + " and ".join(repr(header[at]) for at in flags.values())


def labels_of_one_hot(
    path: Path, header: Sequence[str], lines: Lines, taken: Sequence[int]
) -> tuple[list[str], list[int], str] | None:
    """The class of each row by a column for each class, those columns, and what was understood.

    Args:
        path: The table, for the errors.
        header: Names of the columns.
        lines: Line number and cells of each row, as many as there are columns.
        taken: Columns that mean something else.

    Returns:
        None where there are no two columns of 0 and 1. A row without a 1 has no label.

    Raises:
        InputError: A row has several, or the columns hold probabilities.
    """
    free = [at for at in range(len(header)) if at not in taken and header[at]]
    classes = [at for at in free if _are_flags(lines, at)]
    if len(classes) < 2 or not any(_is_yes(cells[at]) for _, cells in lines for at in classes):
        if len(shares := [at for at in free if _are_shares(lines, at)]) > 1:
            raise InputError(
                f"{path}: columns {', '.join(header[at] for at in shares[:3])}, ... hold probabilities; write "
                f"the class of each picture into a column label{misspelled(header, ['label'])}"
            )
        return None
    labels = []
    for line, cells in lines:
        having = [header[at] for at in classes if _is_yes(cells[at])]
        if len(having) > 1:
            raise InputError(
                f"{path} line {line}: {' and '.join(map(repr, having))} are both 1, and a picture is of one class "
                "here; keep one of them in each row, or leave the picture out"
            )
        labels.append(having[0] if having else "")
    shown = ", ".join(header[at] for at in classes[:5]) + (", ..." if len(classes) > 5 else "")
    none = labels.count("")
    words = f"a column of 0 and 1 for each of {len(classes)} classes ({shown})"
    return labels, classes, words + (f", {none} rows have no 1 and so no label" if none else "")


def misspelled(header: Sequence[str], roles: Sequence[str]) -> str:
    """What to say of columns that are called nearly so; empty where there is none.

    Example:
        >>> misspelled(["path", "lable", "score"], ["label"])
        "; column 'lable' may be meant for label; rename it"
    """
    names = {name.strip().lower(): name for name in header if name.strip()}
    close = {role: difflib.get_close_matches(role, names, n=1, cutoff=0.7) for role in roles}
    meant = [f"column {names[found[0]]!r} may be meant for {role}" for role, found in close.items() if found]
    return f"; {' and '.join(meant)}; rename it" if meant else ""


def _are_flags(lines: Lines, at: int) -> bool:
    """Whether a column holds yes and no alone."""
    cells = {cells[at].strip().lower() for _, cells in lines}
    return bool(cells - {""}) and cells <= _YES | _NO


def _are_shares(lines: Lines, at: int) -> bool:
    """Whether a column holds numbers between 0 and 1, some of them fractions."""
    cells = [cells[at].strip() for _, cells in lines]
    return all(re.fullmatch(r"[01]|[01]?\.\d+(e-\d+)?|\d(\.\d+)?e-\d+", cell, re.I) for cell in cells)


def _is_yes(cell: str) -> bool:
    return cell.strip().lower() in _YES
