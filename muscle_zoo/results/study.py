"""A study: the same runs with and without MUSCLE, and what comes of them."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods import METHODS, base_of, method_names, with_muscle
from ..recipes import Recipe, get_recipe
from ..recipes.names import budget_order, make_name, parse_name
from .ledger import Row, markdown_table, percent

# Paul Tol's "muted" colors, which color-blind people tell apart, in the order of the methods' table.
COLORS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
# Half the width of a 95 % interval, in standard errors, for 2, 3, ... 30 seeds (Student's t).
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045),
)


def plan(
    arch: str,
    methods: Sequence[str],
    datasets: Sequence[str],
    labels: Sequence[str],
    seeds: Sequence[int],
    biases: Sequence[str] = ("none",),
    overrides: Mapping[str, Any] | None = None,
) -> list[Recipe]:
    """The runs of a study, seed by seed, so that one that is stopped has whole seeds.

    Args:
        arch: Backbone.
        methods: Base methods; each runs alone and with MUSCLE.
        datasets: Data sets.
        labels: Label budgets.
        seeds: Seeds; every method gets the same labeled images, initial weights and views at a seed.
        biases: Values of the recipe's ``bias``.
        overrides: Other changes to every recipe.

    Returns:
        The recipes.

    Raises:
        InputError: A name or value is wrong.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(f"--methods {method} is not a base method; give some of {', '.join(METHODS)}")
    if 0 < sum(budget.endswith("pct") for budget in labels) < len(labels):
        raise InputError(f"--labels {' '.join(labels)} mixes numbers and shares; give each kind its own study")
    return [
        get_recipe(make_name(arch, method, dataset, budget), {**(overrides or {}), "seed": seed, "bias": bias})
        for seed in seeds
        for dataset in datasets
        for bias in biases
        for budget in labels
        for base in methods
        for method in (base, with_muscle(base))
    ]


def select(
    rows: Iterable[Row],
    arch: str,
    dataset: str,
    methods: Sequence[str] = (),
    labels: Sequence[str] = (),
    biases: Sequence[str] = ("none",),
    overrides: Mapping[str, Any] | None = None,
    variant: str = "",
) -> list[Row]:
    """The rows of a study among a ledger's: those of its recipes as they are now, and no others.

    Args:
        rows: The ledger.
        arch: Backbone.
        dataset: Data set.
        methods: Base methods; all, if there are none.
        labels: Label budgets; all, if there are none.
        biases: Values of the recipe's ``bias``.
        overrides: What else the study changed of every recipe.
        variant: Last part of the names; empty for the main recipes.

    Returns:
        The rows.
    """
    found = []
    for row in rows:
        parts = parse_name(row.name)
        if (parts["arch"], parts["dataset"], parts["variant"]) != (arch, dataset, variant) or row.bias not in biases:
            continue
        if (methods and base_of(parts["method"]) not in methods) or (labels and str(parts["labels"]) not in labels):
            continue
        if row.recipe_sha256 == get_recipe(row.name, {**(overrides or {}), "bias": row.bias}).sha256:
            found.append(row)
    return found


def digest(rows: Iterable[Row]) -> str:
    """What tells one set of results from another; figures carry it."""
    values = sorted((row.name, row.bias, row.seed, row.top1_ema) for row in rows)
    return hashlib.sha256(repr(values).encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """What one method does at one budget, alone and with MUSCLE: accuracies by seed, 0 to 1."""

    dataset: str
    variant: str
    bias: str
    labels: int | str
    base: str
    alone: dict[int, float]
    muscle: dict[int, float]

    @property
    def gains_by_seed(self) -> dict[int, float]:
        """Paired gains in points."""
        return {s: 100 * (self.muscle[s] - self.alone[s]) for s in sorted(self.alone.keys() & self.muscle.keys())}

    @property
    def gains(self) -> list[float]:
        """Paired gains in points, in the order of the seeds."""
        return list(self.gains_by_seed.values())


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Sorts a study's rows by data set, variant, bias, budget and base method.

    Raises:
        InputError: Runs of more than one recipe stand under one name and bias.
    """
    found: dict[tuple[str, str, str, int | str, str], dict[bool, dict[int, float]]] = {}
    hashes: dict[tuple[str, str], str] = {}
    for row in rows:
        if hashes.setdefault((row.name, row.bias), row.recipe_sha256) != row.recipe_sha256:
            raise InputError(
                f"{row.name} (bias {row.bias}) was run with different overrides; give each study its own --out"
            )
        parts = parse_name(row.name)
        method = parts["method"]
        base = base_of(method)
        key = parts["dataset"], parts["variant"], row.bias, parts["labels"], base
        cell = found.setdefault(key, {False: {}, True: {}})
        cell[method != base][row.seed] = row.top1_ema
    order = method_names()
    made = [Cell(*key, alone=found[key][False], muscle=found[key][True]) for key in found]
    return sorted(
        made,
        key=lambda c: (c.dataset, c.variant, _strength(c.bias), c.bias, budget_order(c.labels), order.index(c.base)),
    )


def _strength(bias: str) -> float:
    """The number in a bias: ``imbalance:20`` comes after ``imbalance:5``."""
    number = re.search(r"[\d.]+", bias)
    return float(number[0]) if number else 0.0


def interval(gains: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of paired gains (Student's t; a little wide above 30); None for fewer than two."""
    if len(gains) < 2:
        return None
    half = _T95[min(len(gains), 30) - 2] * statistics.stdev(gains) / math.sqrt(len(gains))
    mean = statistics.fmean(gains)
    return mean - half, mean + half


def table(rows: Iterable[Row]) -> str:
    """A Markdown table of a study: mean, standard deviation and worst seed in per cent, and MUSCLE's paired gain."""
    made = cells(rows)
    columns = {"data set": "dataset", "variant": "variant", "bias": "bias"}
    extra = [name for name, part in columns.items() if len({getattr(cell, part) for cell in made}) > 1]
    head = [*extra, "labels", "method", "alone", "worst", "with MUSCLE", "worst", "gain, 95 % interval", "seeds"]
    lines = []
    for cell in made:
        words = [*(getattr(cell, columns[name]) for name in extra), str(cell.labels), cell.base]
        words += [*_accuracy(cell.alone), *_accuracy(cell.muscle), gain_text(cell.gains), str(len(cell.gains))]
        lines.append(words)
    return markdown_table(head, lines)


def bias_table(rows: Iterable[Row]) -> str:
    """A Markdown table of how MUSCLE's gain changes with a bias.

    Args:
        rows: Of one data set and one budget, with ``none`` among the biases.

    Returns:
        A row for each method and a column for each bias: the gain less the gain without bias, seed by seed, in points:
        mean and 95 % interval.
    """
    made = cells(rows)
    plain = {cell.base: cell.gains_by_seed for cell in made if cell.bias == "none"}
    biases = [bias for bias in dict.fromkeys(cell.bias for cell in made) if bias != "none"]
    lines = []
    for base in plain:
        words = [base]
        for bias in biases:
            gains = next((cell.gains_by_seed for cell in made if (cell.base, cell.bias) == (base, bias)), {})
            words.append(gain_text([gains[s] - plain[base][s] for s in sorted(gains.keys() & plain[base].keys())]))
        lines.append(words)
    return markdown_table(["method", *biases], lines)


def gain_text(gains: Sequence[float]) -> str:
    """``+1.2 (+0.1 to +2.3)``: mean and 95 % interval of paired gains; empty where there are none."""
    if not gains:
        return ""
    bounds = interval(gains)
    return f"{statistics.fmean(gains):+.1f}" + (f" ({bounds[0]:+.1f} to {bounds[1]:+.1f})" if bounds else "")


def _accuracy(by_seed: Mapping[int, float]) -> tuple[str, str]:
    values = list(by_seed.values())
    return (percent(values), f"{100 * min(values):.1f}") if values else ("", "")


def draw(rows: Iterable[Row], path: Path) -> None:
    """Draws accuracy against label budget: a panel for each method, dashed without MUSCLE and solid with it.

    Error bars are standard deviations over seeds; the gray line in every panel is the supervised control.

    Args:
        rows: Of one data set and one bias.
        path: The file to write.

    A PNG carries :func:`digest` of its rows as the text ``rows``.

    Raises:
        InputError: The rows are of several data sets or biases.
    """
    from matplotlib.figure import Figure

    rows = list(rows)
    made = cells(rows)
    if len({(cell.dataset, cell.variant, cell.bias) for cell in made}) != 1:
        raise InputError("a figure is of one data set, one variant and one bias")
    bases = list(dict.fromkeys(cell.base for cell in made))
    columns = min(3, len(bases))
    height = math.ceil(len(bases) / columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 2.9 * height + 0.7), layout="constrained")
    axes = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
    control = {cell.labels: cell.alone for cell in made if cell.base == "supervised"}
    for panel, base in zip(axes.flat, bases, strict=False):
        color = COLORS[list(METHODS).index(base) % len(COLORS)]
        mine = [cell for cell in made if cell.base == base]
        if base != "supervised":
            _curve(panel, control, "#999999", ":", "supervised")
        _curve(panel, {cell.labels: cell.alone for cell in mine}, color, "--", base.replace("_", " "), 0.97)
        _curve(panel, {cell.labels: cell.muscle for cell in mine}, color, "-", "with MUSCLE", 1.03)
        style_budgets(panel, [cell.labels for cell in made])
        panel.set_title(base.replace("_", " "), fontsize=13)
        panel.legend(frameon=False, fontsize=10, loc="lower right")
    for panel in axes.flat[len(bases) :]:
        panel.set_visible(False)
    bias = "" if made[0].bias == "none" else f", bias {made[0].bias}"
    figure.supxlabel("labels", fontsize=13)
    figure.supylabel("top-1, %", fontsize=13)
    figure.suptitle(f"{made[0].dataset}{bias}", fontsize=14)
    figure.savefig(path, dpi=110, metadata={"Software": None, "rows": digest(rows)} if path.suffix == ".png" else None)


def _curve(
    panel: Any,
    by_budget: Mapping[int | str, Mapping[int, float]],
    color: str,
    style: str,
    label: str,
    aside: float = 1.0,
) -> None:
    """Means and standard deviations by budget; ``aside`` keeps the bars of two curves apart."""
    known = {
        budget_order(budget)[1]: [100 * v for v in by_budget[budget].values()]
        for budget in sorted(by_budget, key=budget_order)
        if by_budget[budget]
    }
    means = [statistics.fmean(values) for values in known.values()]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in known.values()]
    panel.errorbar(
        [budget * aside for budget in known],
        means,
        yerr=spread,
        color=color,
        linestyle=style,
        label=label,
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
