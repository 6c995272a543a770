"""Statistics of runs: means over seeds, and paired gains with their intervals."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..methods import base_of, method_names
from ..recipes.names import budget_order, parse_name
from .ledger import Row


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the latter with a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float]) -> str:
    """``86.1 ± 2.0``: mean and standard deviation of shares, in per cent; empty where there are none."""
    if not values:
        return ""
    mean, std = mean_std(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")


def interval(gains: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of paired gains (Student's t); None for fewer than two."""
    if len(gains) < 2:
        return None
    from scipy.stats import t  # slow to import, and only tables and figures need it

    half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
    mean = statistics.fmean(gains)
    return mean - half, mean + half


def is_above_zero(points: float) -> bool:
    """Whether a gain in points is above zero by more than the ledger's rounding: top-1 has six digits there.

    Without it a gain of no image at all may be counted as one, or as a loss.

    Example:
        >>> is_above_zero(100 * (0.880556 - 0.88055555)), is_above_zero(100 / 10_000)
        (False, True)
    """
    return points > 1e-3


def gain_text(gains: Sequence[float]) -> str:
    """``+1.2 (+0.1 to +2.3)``: mean and 95 % interval of paired gains; empty where there are none."""
    if not gains:
        return ""
    bounds = interval(gains)
    return f"{statistics.fmean(gains):+.1f}" + (f" ({bounds[0]:+.1f} to {bounds[1]:+.1f})" if bounds else "")


@dataclass(frozen=True)
class Cell:
    """What one base method reaches at one label budget, alone and with MUSCLE.

    Attributes:
        arch: Backbone.
        dataset: Data set.
        variant: Last part of the names; empty for the main recipes.
        bias: How the labeled split is biased.
        labels: Label budget.
        base: Base method.
        alone: Accuracy of the base method by seed, 0 to 1; empty where there are no runs.
        muscle: The same with MUSCLE added to it.
    """

    arch: str
    dataset: str
    variant: str
    bias: str
    labels: int | str
    base: str
    alone: dict[int, float]
    muscle: dict[int, float]

    @property
    def gains_by_seed(self) -> dict[int, float]:
        """MUSCLE's paired gains in points, of the seeds that ran both with and without it."""
        paired = sorted(self.alone.keys() & self.muscle.keys())
        return {seed: 100 * (self.muscle[seed] - self.alone[seed]) for seed in paired}

    @property
    def gains(self) -> list[float]:
        """MUSCLE's paired gains in points, in the order of the seeds."""
        return list(self.gains_by_seed.values())


def mean_gains(study: Iterable[Cell]) -> list[float]:
    """MUSCLE's paired gains in points, of each seed the mean over the cells, in the order of the seeds.

    Of the seeds that every cell has. The cells of a seed share its labeled images and initial weights, so their gains
    are not independent of each other; the seeds are, and the interval of these means is one over seeds.
    """
    by_seed = [cell.gains_by_seed for cell in study]
    seeds = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    return [statistics.fmean(gains[seed] for gains in by_seed) for seed in seeds]


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Groups runs into cells, sorted by data set, backbone, variant, bias, label budget and base method.

    Raises:
        InputError: Runs of more than one recipe stand under one name and bias.
    """
    by_key: dict[tuple[str, str, str, str, int | str, str], Cell] = {}
    hashes: dict[tuple[str, str], str] = {}
    for row in rows:
        if hashes.setdefault((row.name, row.bias), row.recipe_sha256) != row.recipe_sha256:
            raise InputError(
                f"{row.name} (bias {row.bias}) was run with different overrides; give each study its own folder"
            )
        parts = parse_name(row.name)
        base = base_of(parts["method"])
        key = (parts["arch"], parts["dataset"], parts["variant"], row.bias, parts["labels"], base)
        cell = by_key.setdefault(key, Cell(*key, alone={}, muscle={}))
        by_seed = cell.alone if parts["method"] == base else cell.muscle
        by_seed[row.seed] = row.top1_ema
    return sorted(by_key.values(), key=_place)


def _place(cell: Cell) -> tuple[str, str, str, float, str, tuple[bool, int], int]:
    number = re.search(r"\d+(\.\d+)?", cell.bias)
    strength = float(number[0]) if number else 0.0  # imbalance:20 comes after imbalance:5
    budget, method = budget_order(cell.labels), method_names().index(cell.base)
    return cell.dataset, cell.arch, cell.variant, strength, cell.bias, budget, method


FEW = 30  # pictures, below which a share of them says so little that they are counted where it is told


def of_few(n: int, what: str = "pictures") -> str:
    """What is said behind a share of few pictures: 100 % of three of them is no 100 %.

    Example:
        >>> of_few(3), of_few(360)
        (' of 3 pictures', '')
    """
    return f" of {n} {what if n != 1 else what.removesuffix('s')}" if n < FEW else ""
