"""The zoo at a glance: what each published checkpoint's recipe reaches, and what MUSCLE gained, from the ledger."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..methods import base_of
from ..recipes import get_recipe
from ..recipes.names import budget_order, parse_name, with_method
from .ledger import Row, markdown_table, percent, runs_of
from .study import COLORS, Cell, cells, digest, gain_text, interval, style_budgets


def zoo_rows(rows: Iterable[Row], names: Iterable[str]) -> list[Row]:
    """The ledger's rows of these checkpoints and their controls: supervised, and the method without MUSCLE."""
    rows = list(rows)
    methods = {name: parse_name(name)["method"] for name in names}
    wanted = dict.fromkeys(
        with_method(name, method) for name, own in methods.items() for method in ("supervised", base_of(own), own)
    )
    return [row for name in wanted for row in runs_of(rows, name, get_recipe(name).sha256)]


def _cells(rows: Sequence[Row]) -> dict[str, list[Cell]]:
    """Cells by backbone."""
    archs = dict.fromkeys(row.name.partition(".")[0] for row in rows)
    return {arch: cells(row for row in rows if row.name.partition(".")[0] == arch) for arch in archs}


def zoo_table(rows: Sequence[Row], parameters: Mapping[str, int]) -> str:
    """A Markdown table of the zoo.

    Args:
        rows: See :func:`zoo_rows`.
        parameters: Checkpoint to how many parameters it has.

    Returns:
        A row for each checkpoint: top-1 in per cent, mean and standard deviation over seeds; the same of its two
        controls; MUSCLE's paired gain over the second, in points, with its 95 % interval; the mean negative
        log-likelihood in nats, and in brackets that of the second.
    """
    head = ["name", "parameters", "labels", "top-1", "supervised", "without MUSCLE", "paired gain", "nll", "seeds"]
    lines = []
    by_arch = _cells(rows)
    for name, count in sorted(parameters.items(), key=lambda item: _place(item[0])):
        parts = parse_name(name)
        of_budget = {
            cell.base: cell
            for cell in by_arch.get(parts["arch"], ())
            if all(getattr(cell, part) == parts[part] for part in ("dataset", "variant", "labels"))
        }
        method = base_of(parts["method"])
        base = of_budget[method]
        control = of_budget["supervised"].alone if "supervised" in of_budget else {}
        words = [f"`{name}`", _short(count), str(parts["labels"])]
        words += [percent(list(v.values())) if v else "" for v in (base.muscle, control, base.alone)]
        nll = f"{_nll(rows, name)} ({_nll(rows, with_method(name, method))})"
        lines.append([*words, gain_text(base.gains), nll, str(len(base.muscle))])
    return markdown_table(head, lines)


def _nll(rows: Sequence[Row], name: str) -> str:
    values = [row.nll for row in rows if row.name == name]
    return f"{statistics.fmean(values):.2f}" if values else ""


def _place(name: str) -> tuple[Any, ...]:
    parts = parse_name(name)
    return parts["dataset"], parts["arch"], parts["variant"], parts["method"], budget_order(parts["labels"])


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count / 1e3:.0f} k"


def draw_gains(rows: Sequence[Row], path: Path) -> None:
    """Draws MUSCLE's paired gain against the label budget: a panel for each data set and backbone.

    Bars are 95 % intervals (none where there is a single seed); variants of the recipes have hollow marks. A PNG
    carries :func:`digest` of its rows.

    Args:
        rows: See :func:`zoo_rows`.
        path: The file to write.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Cell]] = {}
    for arch, found in _cells(rows).items():
        for cell in found:
            if cell.gains:
                panels.setdefault((cell.dataset, arch), []).append(cell)
    columns = min(2, len(panels))
    height = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.1 * height + 0.6), layout="constrained")
    axes = list(figure.subplots(height, columns, squeeze=False).flat)
    looks = {"supervised": (COLORS[0], "o", 0.96), "fixmatch": (COLORS[7], "s", 1.04)}
    for panel, (place, found) in zip(axes, sorted(panels.items()), strict=False):
        panel.axhline(0, color="#666666", linewidth=0.8)
        for variant, base in dict.fromkeys((cell.variant, cell.base) for cell in found):
            mine = [cell for cell in found if (cell.variant, cell.base) == (variant, base)]
            means = [statistics.fmean(cell.gains) for cell in mine]
            bounds = [interval(cell.gains) or (mean, mean) for cell, mean in zip(mine, means, strict=True)]
            spread = [(mean - low, high - mean) for mean, (low, high) in zip(means, bounds, strict=True)]
            color, marker, aside = looks[base]
            panel.errorbar(
                [budget_order(cell.labels)[1] * aside ** (3 if variant else 1) for cell in mine],
                means,
                yerr=list(zip(*spread, strict=True)),
                color=color,
                marker=marker,
                markerfacecolor="white" if variant else color,
                linestyle="--" if variant else "-",
                label=", ".join(filter(None, (f"on {base}", variant))),
                capsize=3,
                linewidth=1.8,
            )
        style_budgets(panel, [cell.labels for cell in found])
        places = [budget_order(cell.labels)[1] for cell in found]
        panel.set_xlim(min(places) / 1.4, max(places) * 1.4)
        panel.set_title(", ".join(place), fontsize=13)
        panel.legend(frameon=False, fontsize=10)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    figure.supxlabel("labels", fontsize=13)
    figure.supylabel("paired gain of MUSCLE, points", fontsize=12)
    figure.savefig(path, dpi=110, metadata={"Software": None, "rows": digest(rows)} if path.suffix == ".png" else None)
