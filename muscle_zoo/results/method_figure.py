"""A heat map of the methods: what each reaches at each label budget, and what MUSCLE adds to it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..recipes.names import budget_order
from .figures import save_figure
from .ledger import Row
from .stats import Cell, cells, interval

_FEW_LABELS = 40  # up to which budgets decide where a method stands
_SURE = 12.0  # points of a gain at which its color is full
_DARK = 0.179  # relative luminance below which white letters have more contrast than black ones (WCAG 2.1)


def plot_methods(rows: Iterable[Row], path: Path) -> None:
    """Draws a line for each method and a column for each budget: accuracy alone, and MUSCLE's paired gain.

    The methods stand by their mean accuracy at no more than 40 labels, alone and with MUSCLE together. Every field
    says its number; a gain in bold letters is one whose 95 % interval leaves out zero. A PNG carries a digest of its
    rows.

    Args:
        rows: Of one backbone, data set, variant and bias.
        path: The file to write.
    """
    from matplotlib.figure import Figure  # slow to import, and only figures need it

    rows = list(rows)
    by_base: dict[str, dict[int | str, Cell]] = {}
    for cell in cells(rows):
        by_base.setdefault(cell.base, {})[cell.labels] = cell
    budgets = sorted({budget for own in by_base.values() for budget in own}, key=budget_order)
    bases = sorted(by_base, key=lambda base: _standing(by_base[base], budgets), reverse=True)
    figure = Figure(figsize=(8.4, 1.3 + 0.3 * len(bases)), layout="constrained")
    left, right = figure.subplots(1, 2)
    alone = [[_mean_accuracy(by_base[base].get(budget)) for budget in budgets] for base in bases]
    gains = [[_gain(by_base[base].get(budget)) for budget in budgets] for base in bases]
    _fields(left, [[(value, False) for value in line] for line in alone], "cividis", (_lowest(alone), 100.0), "{:.1f}")
    _fields(right, gains, "PuOr", (-_SURE, _SURE), "{:+.1f}")
    for panel, title in ((left, "alone: top-1, %"), (right, "MUSCLE's gain, points")):
        panel.set_title(title, fontsize=12)
        panel.set_xticks(range(len(budgets)), [f"{budget}" for budget in budgets])
        panel.set_xlabel("labels", fontsize=11)
    left.set_yticks(range(len(bases)), [base.replace("_", " ") for base in bases])
    right.set_yticks([])
    save_figure(figure, path, rows)


def _standing(own: Mapping[int | str, Cell], budgets: Sequence[int | str]) -> float:
    """What a method is sorted by: the mean over budgets of few labels (the fewest, where there are none of these).

    Of each the mean alone and the mean with MUSCLE count alike, however many seeds they have.
    """
    few = [budget for budget in budgets if budget_order(budget)[1] <= _FEW_LABELS] or budgets[:1]
    sides = [side for budget in few if budget in own for side in (own[budget].alone, own[budget].muscle)]
    values = [statistics.fmean(side.values()) for side in sides if side]
    return statistics.fmean(values) if values else 0.0


def _mean_accuracy(cell: Cell | None) -> float | None:
    return 100 * statistics.fmean(cell.alone.values()) if cell is not None and cell.alone else None


def _gain(cell: Cell | None) -> tuple[float | None, bool]:
    """The mean paired gain, and whether its interval leaves out zero."""
    if cell is None or not cell.gains:
        return None, False
    bounds = interval(cell.gains)
    return statistics.fmean(cell.gains), bounds is not None and (bounds[0] > 0 or bounds[1] < 0)


def _lowest(table: Sequence[Sequence[float | None]]) -> float:
    return min(value for line in table for value in line if value is not None)


def _fields(
    panel: Any,
    table: Sequence[Sequence[tuple[float | None, bool]]],
    colors: str,
    limits: tuple[float, float],
    form: str,
) -> None:
    """Draws a table of numbers as colored fields, each with its number; what is not known stays white."""
    numbers = [[float("nan") if value is None else value for value, _ in line] for line in table]
    image = panel.imshow(numbers, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto")
    for y, line in enumerate(table):
        for x, (value, is_sure) in enumerate(line):
            if value is not None:
                weight = "bold" if is_sure else "normal"
                panel.text(
                    *(x, y, form.format(value)),
                    **{"ha": "center", "va": "center", "fontsize": 10, "weight": weight},
                    color="white" if _luminance(image.cmap(image.norm(value))) < _DARK else "black",
                )
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)


def _luminance(color: Sequence[float]) -> float:
    """Relative luminance of an sRGB color, 0 to 1."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
