"""Markdown tables of the methods: what each is, read from its code, and what came of it, read from the ledger."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..methods import METHODS, Method, base_of
from ..recipes.names import parse_name
from .ledger import Row
from .stats import cells, percent
from .tables import markdown_table

_ARXIV = re.compile(r"(?:, )?\b(?:arXiv )(\d{4}\.\d{4,5})")


def method_table() -> str:
    """The table of what the methods are.

    Returns:
        A row for each base method: the first line of its class's docstring; the papers that this line names, as links
        to arXiv (none where the paper is not there); and how many lines its file has.

    Example:
        >>> row = next(line for line in method_table().splitlines() if "SoftMatch" in line)
        >>> row.split(" | ")[1:3]
        ['SoftMatch (Chen et al. 2023).', '[2301.10921](https://arxiv.org/abs/2301.10921)']
    """
    lines = []
    for name, method in METHODS.items():
        summary = _summary(method)
        papers = [f"[{number}](https://arxiv.org/abs/{number})" for number in _ARXIV.findall(summary)]
        about = _ARXIV.sub("", summary).replace(" ()", "").replace("``", "`")
        lines.append([f"`{name}`", about, ", ".join(papers), str(lines_of(method))])
    return markdown_table(["method", "what it is", "paper (arXiv)", "lines"], lines)


def _summary(method: type[Method]) -> str:
    return (inspect.getdoc(method) or "").partition("\n")[0]


def lines_of(method: type[Method]) -> int:
    """How many lines the file of a method has."""
    return len(Path(inspect.getfile(method)).read_text(encoding="utf-8").splitlines())


def result_table(rows: Iterable[Row], labels: Sequence[str]) -> str:
    """The table of what the methods reach.

    Args:
        rows: Of one backbone, data set, variant and bias, and one recipe each.
        labels: Label budgets.

    Returns:
        A row for each base method that has any: for each budget its mean top-1 in per cent, with the standard
        deviation over its seeds, alone and with MUSCLE; then the median seconds of a run, over all of these, alone and
        with MUSCLE. What the rows do not have is left empty, and a method without any row is left out.
    """
    shown = list(rows)
    accuracy = {(cell.base, str(cell.labels)): (cell.alone, cell.muscle) for cell in cells(shown)}
    seconds: dict[tuple[str, bool], list[float]] = {}
    for row in shown:
        method = parse_name(row.name)["method"]
        base = base_of(method)
        seconds.setdefault((base, method != base), []).append(3600 * row.hours)
    lines = []
    for name in (name for name in METHODS if {(name, False), (name, True)} & seconds.keys()):
        words = [f"`{name}`"]
        for budget in labels:
            words += [percent(list(by_seed.values())) for by_seed in accuracy.get((name, budget), ({}, {}))]
        words += [_median(seconds.get((name, with_it), [])) for with_it in (False, True)]
        lines.append(words)
    columns = [title for budget in labels for title in (f"{budget} labels", "with MUSCLE")]
    return markdown_table(["method", *columns, "seconds", "with MUSCLE"], lines)


def _median(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.0f}" if seconds else ""
