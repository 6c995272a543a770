"""Figures of what came of runs: a study, and the gains of the zoo."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods import METHODS
from ..recipes.names import budget_order
from .ledger import Row
from .stats import Cell, cells, interval

# Paul Tol's "muted" colors, which color-blind people tell apart, in the order of the methods' table.
COLORS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
# One more than the colors: where these begin again, a method has another marker than the one of the same color.
MARKERS = ("o", "^", "v", "D", "P", "X", "*", "s", "p", "h")
SUFFIXES = (".png", ".jpg", ".pdf", ".svg")  # of files that a figure can be drawn into
_LEAST_GAIN = 1.0  # points on either side of zero that a panel shows at least: a lone half point is not to fill it


def style_of(base: str) -> tuple[str, str]:
    """The color and the marker of a base method."""
    place = list(METHODS).index(base)
    return COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]


def digest(rows: Iterable[Row]) -> str:
    """A hash that tells one set of results from another; a figure's file carries it."""
    values = sorted((row.name, row.bias, row.seed, row.top1_ema) for row in rows)
    return hashlib.sha256(repr(values).encode()).hexdigest()


def plot_study(rows: Iterable[Row], path: Path) -> None:
    """Draws accuracy against label budget: a panel for each method, dashed without MUSCLE and solid with it.

    Error bars are standard deviations over seeds; the gray line in every panel is the supervised control.

    Args:
        rows: Of one backbone, one data set, one variant and one bias.
        path: The file to write.

    A PNG carries :func:`digest` of its rows as the text ``rows``.

    Raises:
        InputError: The rows are of several data sets, biases or the like.
    """
    rows = list(rows)
    study = cells(rows)
    if len({(cell.arch, cell.dataset, cell.variant, cell.bias) for cell in study}) != 1:
        raise InputError("a figure is of one backbone, one data set, one variant and one bias")
    bases = list(dict.fromkeys(cell.base for cell in study))
    figure, axes = grid_of_panels(len(bases), columns=3, width=3.6, height=2.9, margin=0.7, shared=True)
    control = {cell.labels: cell.alone for cell in study if cell.base == "supervised"}
    for panel, base in zip(axes, bases, strict=True):
        color, _ = style_of(base)
        of_base = [cell for cell in study if cell.base == base]
        title = base.replace("_", " ")
        if base != "supervised":
            _plot_accuracies(panel, control, "supervised", color="#999999", linestyle=":")
        # The two curves stand 3 % aside, so that their error bars do not cover each other.
        alone = {cell.labels: cell.alone for cell in of_base}
        muscle = {cell.labels: cell.muscle for cell in of_base}
        _plot_accuracies(panel, alone, title, 0.97, color=color, linestyle="--")
        _plot_accuracies(panel, muscle, "with MUSCLE", 1.03, color=color, linestyle="-")
        style_budgets(panel, [cell.labels for cell in study])
        panel.set_title(title, fontsize=13)
        panel.legend(frameon=False, fontsize=10, loc="lower right")
    bias = "" if study[0].bias == "none" else f", bias {study[0].bias}"
    figure.supylabel("top-1, %", fontsize=13)
    figure.suptitle(f"{study[0].dataset}{bias}", fontsize=14)
    save_figure(figure, path, rows)


def _plot_accuracies(
    panel: Any, by_budget: Mapping[int | str, Mapping[int, float]], label: str, shift: float = 1.0, **style: str
) -> None:
    """Draws means and standard deviations by budget, each budget multiplied by ``shift``; nothing if there are none."""
    budgets = sorted((budget for budget in by_budget if by_budget[budget]), key=budget_order)
    if not budgets:
        return
    places = [budget_order(budget)[1] * shift for budget in budgets]
    plot_means(panel, places, [list(by_budget[budget].values()) for budget in budgets], label, **style)


def plot_means(
    panel: Any, places: Sequence[float], accuracies: Sequence[Sequence[float]], label: str, **style: str
) -> None:
    """Draws a line of means with standard deviations, in per cent, of accuracies of 0 to 1 at each place."""
    per_cent = [[100 * value for value in values] for values in accuracies]
    panel.errorbar(
        places,
        [statistics.fmean(values) for values in per_cent],
        yerr=[statistics.stdev(values) if len(values) > 1 else 0.0 for values in per_cent],
        label=label,
        capsize=3,
        linewidth=1.8,
        **style,
    )


def plot_gains_of_study(rows: Iterable[Row], path: Path) -> None:
    """Draws MUSCLE's paired gain against the label budget: a panel for each method, on one scale.

    Points are means with their 95 % intervals over seeds, crosses single seeds; filled where the interval leaves out
    zero. Nothing is told by color. A PNG carries :func:`digest` of its rows.

    Args:
        rows: Of one backbone, one data set, one variant and one bias.
        path: The file to write.
    """
    rows = list(rows)
    study = [cell for cell in cells(rows) if cell.gains]
    bases = list(dict.fromkeys(cell.base for cell in study))
    figure, axes = grid_of_panels(len(bases), columns=3, width=3.3, height=2.5, margin=0.7, shared=True)
    for panel, base in zip(axes, bases, strict=True):
        panel.axhline(0, color="#666666", linewidth=1.2)
        of_base = [cell for cell in study if cell.base == base]
        for cell in of_base:
            place, mean = budget_order(cell.labels)[1], statistics.fmean(cell.gains)
            low, high = interval(cell.gains) or (mean, mean)
            panel.plot([place * 1.12] * len(cell.gains), cell.gains, "x", color="#88CCEE", markersize=5, zorder=1)
            panel.errorbar(
                [place],
                [mean],
                yerr=[[mean - low], [high - mean]],
                color="#332288",
                marker="o",
                markersize=8,
                markerfacecolor="#332288" if low > 0 or high < 0 else "white",
                capsize=4,
                linewidth=2.2,
            )
        style_budgets(panel, [cell.labels for cell in study])
        panel.set_title(base.replace("_", " "), fontsize=14)
    figure.supylabel("paired gain of MUSCLE, points", fontsize=14)
    save_figure(figure, path, rows)


def plot_gains(rows: Iterable[Row], path: Path) -> None:
    """Draws MUSCLE's paired gain against the label budget: a panel for each data set and backbone that has any.

    Bars are 95 % intervals (none where there is a single seed); variants of the recipes have hollow marks. A PNG
    carries :func:`digest` of its rows.

    Args:
        rows: See :func:`muscle_zoo.results.tables.zoo_rows`.
        path: The file to write.
    """
    rows = list(rows)
    panels: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells(rows):
        if cell.gains:
            panels.setdefault((cell.dataset, cell.arch), []).append(cell)
    figure, axes = grid_of_panels(len(panels), columns=2, width=4.6, height=3.1, margin=0.6, shared=False)
    if not panels:
        figure.text(0.5, 0.5, "no seed was run both with and without MUSCLE", ha="center", va="center", fontsize=11)
    for panel, (dataset, arch) in zip(axes, panels, strict=True):
        shown = panels[dataset, arch]
        panel.axhline(0, color="#666666", linewidth=0.8)
        panel.update_datalim([(1, -_LEAST_GAIN), (1, _LEAST_GAIN)], updatex=False)
        order = list(METHODS)
        curves = sorted({(cell.variant, order.index(cell.base)) for cell in shown})
        # On a logarithmic axis, equal factors are equal distances: the curves stand evenly about the budget.
        step = min(0.08, 0.5 / len(curves))
        for place, (variant, method) in enumerate(curves):
            of_curve = [cell for cell in shown if (cell.variant, cell.base) == (variant, order[method])]
            _plot_curve_of_gains(panel, of_curve, math.exp(step * (place - (len(curves) - 1) / 2)))
        style_budgets(panel, [cell.labels for cell in shown])
        budgets = [budget_order(cell.labels)[1] for cell in shown]
        panel.set_xlim(min(budgets) / 1.4, max(budgets) * 1.4)
        panel.set_title(f"{dataset}, {arch}", fontsize=13)
        if len(curves) <= 4:
            panel.legend(frameon=False, fontsize=10)
        else:  # a long legend would hide the curves: it stands beside them
            panel.legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1, 1))
    figure.supylabel("paired gain of MUSCLE, points", fontsize=12)
    save_figure(figure, path, rows)


def _plot_curve_of_gains(panel: Any, of_curve: Sequence[Cell], shift: float) -> None:
    """Draws the gains of one method and variant, each budget multiplied by ``shift``."""
    base, variant = of_curve[0].base, of_curve[0].variant
    color, marker = style_of(base)
    means = [statistics.fmean(cell.gains) for cell in of_curve]
    bounds = [interval(cell.gains) or (mean, mean) for cell, mean in zip(of_curve, means, strict=True)]
    panel.errorbar(
        [budget_order(cell.labels)[1] * shift for cell in of_curve],
        means,
        yerr=[
            [mean - low for mean, (low, _) in zip(means, bounds, strict=True)],
            [high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
        ],
        color=color,
        marker=marker,
        markerfacecolor="white" if variant else color,
        linestyle="--" if variant else "-",
        label=f"on {base}, {variant}" if variant else f"on {base}",
        capsize=3,
        linewidth=1.8,
    )


def style_budgets(panel: Any, budgets: Iterable[int | str]) -> None:
    """Makes a panel's horizontal axis one of label budgets: logarithmic, a tick for each."""
    shown = sorted(set(budgets), key=budget_order)
    panel.set_xscale("log")
    panel.set_xticks([budget_order(budget)[1] for budget in shown], [str(budget) for budget in shown])
    panel.minorticks_off()
    panel.tick_params(labelsize=11)
    panel.grid(alpha=0.3)


def grid_of_panels(
    count: int, columns: int, width: float, height: float, margin: float, shared: bool
) -> tuple[Any, list[Any]]:
    """A figure with ``count`` panels in rows of ``columns``; the places that are left over stay empty."""
    from matplotlib.figure import Figure  # slow to import, and only figures need it

    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(width * columns + 0.6, height * rows + margin), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flat)
    for panel in axes[count:]:
        panel.set_visible(False)
    for panel in axes[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)  # of shared axes only the last row's are labeled, and it may have gaps
    figure.supxlabel("labels", fontsize=13)
    return figure, axes[:count]


def save_figure(figure: Any, path: Path, rows: Iterable[Row]) -> None:
    """Writes a figure; a PNG carries :func:`digest` of the rows that it shows."""
    # Software=None keeps matplotlib's version out of the file, which is committed.
    metadata = {"Software": None, "rows": digest(rows)} if path.suffix == ".png" else None
    figure.savefig(path, dpi=110, metadata=metadata)
