"""Markdown tables of what came of runs: a study, a bias, a search, the zoo."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ..errors import InputError
from ..methods import base_of, default_options, with_muscle
from ..recipes import get_recipe
from ..recipes.names import ZOO_METHODS, budget_order, make_name, parse_name, with_method
from .ledger import Row, runs_of
from .stats import Cell, cells, gain_text, interval, is_above_zero, mean_gains, percent
from .study import recipe_of


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a README or a page, the head first."""
    lines = ["| " + " | ".join(words) + " |" for words in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def study_table(rows: Iterable[Row]) -> str:
    """The table of a study: mean, standard deviation and worst seed in per cent, and MUSCLE's paired gain.

    A row for each cell; backbone, data set, variant and bias are columns where there is more than one.
    """
    study = cells(rows)
    columns = {"backbone": "arch", "data set": "dataset", "variant": "variant", "bias": "bias"}
    varying = {title: part for title, part in columns.items() if len({getattr(cell, part) for cell in study}) > 1}
    head = [*varying, "labels", "method", "alone", "worst", "with MUSCLE", "worst", "gain, 95 % interval", "seeds"]
    lines = []
    for cell in study:
        words = [getattr(cell, part) for part in varying.values()]
        words += [str(cell.labels), cell.base]
        for by_seed in (cell.alone, cell.muscle):
            accuracies = list(by_seed.values())
            words += [percent(accuracies), f"{100 * min(accuracies):.1f}" if accuracies else ""]
        words += [gain_text(cell.gains), str(len(cell.gains))]
        lines.append(words)
    return markdown_table(head, lines)


def bias_table(rows: Iterable[Row]) -> str:
    """The table of how MUSCLE's gain changes with a bias.

    Args:
        rows: Of one data set and one budget, with ``none`` among the biases.

    Returns:
        A row for each method and a column for each bias: the gain less the gain without bias, seed by seed, in points:
        mean and 95 % interval. Where there are several methods, a last row for their mean at each seed.
    """
    gains = {(cell.base, cell.bias): cell.gains_by_seed for cell in cells(rows)}
    biases = list(dict.fromkeys(bias for _, bias in gains if bias != "none"))
    bases = [base for base, bias in gains if bias == "none"]
    more: dict[tuple[str, str], dict[int, float]] = {}  # what is gained more than without bias, by seed
    for base, bias in product(bases, biases):
        biased, unbiased = gains.get((base, bias), {}), gains[base, "none"]
        more[base, bias] = {seed: biased[seed] - unbiased[seed] for seed in sorted(biased.keys() & unbiased.keys())}
    lines = [[base, *(gain_text(list(more[base, bias].values())) for bias in biases)] for base in bases]
    if len(bases) > 1:
        lines.append(
            [f"all {len(bases)}", *(gain_text(_means([more[base, bias] for base in bases])) for bias in biases)]
        )
    return markdown_table(["method", *biases], lines)


def _means(by_seed: Sequence[Mapping[int, float]]) -> list[float]:
    """The mean at each seed that all have."""
    seeds = set.intersection(*(set(values) for values in by_seed))
    return [statistics.fmean(values[seed] for values in by_seed) for seed in sorted(seeds)]


def overall_table(rows: Iterable[Row]) -> str:
    """The table of MUSCLE's gain over all base methods together.

    Args:
        rows: Of one backbone, data set and bias.

    Returns:
        A row for each label budget, for all base methods and for those that see unlabeled images: the paired gain,
        averaged over the methods at each seed, with its 95 % interval over seeds; in how many methods the mean gain is
        positive; and in how many the interval of the method's own gain lies above zero, and below. Then the same for
        budgets of the same seeds together.
    """
    by_budget: dict[int | str, list[Cell]] = {}
    for cell in cells(rows):
        if cell.gains:
            by_budget.setdefault(cell.labels, []).append(cell)
    together: dict[frozenset[int], list[int | str]] = {}  # budgets of the same seeds
    for labels, study in by_budget.items():
        seeds = frozenset.intersection(*(frozenset(cell.gains_by_seed) for cell in study))
        together.setdefault(seeds, []).append(labels)
    budgets: list[list[int | str]] = [[labels] for labels in by_budget]
    lines = []
    for group in [*budgets, *(several for several in together.values() if len(several) > 1)]:
        study = [cell for labels in group for cell in by_budget[labels]]
        others = [cell for cell in study if cell.base != "supervised"]
        methods, other_methods = (len({cell.base for cell in shown}) for shown in (study, others))
        for title, shown in ((f"all {methods}", study), (f"the {other_methods} other than supervised", others)):
            if len({cell.base for cell in shown}) > 1:
                lines.append([", ".join(map(str, group)), title, *_overall_words(shown)])
    head = ["labels", "methods", "mean gain, 95 % interval", "gain above 0", "interval above 0", "below 0", "seeds"]
    return markdown_table(head, lines)


def _overall_words(study: Sequence[Cell]) -> list[str]:
    gains = mean_gains(study)
    positive = sum(is_above_zero(statistics.fmean(cell.gains)) for cell in study)
    bounds = [bound for cell in study if (bound := interval(cell.gains))]
    above, below = (
        sum(map(is_above_zero, ends)) for ends in ([low for low, _ in bounds], [-high for _, high in bounds])
    )
    return [gain_text(gains), f"{positive} of {len(study)}", str(above), str(below), str(len(gains))]


def controls_table(rows: Iterable[Row], method: str) -> str:
    """The table of what a method gains over others, on the same labels.

    Args:
        rows: Of one backbone, data set, variant and bias.
        method: Which method's gain; every other one of the rows is a control.

    Returns:
        A row for each budget: the method's mean top-1 in per cent, and for each control its mean paired gain over it in
        points, with the 95 % interval over the seeds that both have.

    Raises:
        InputError: The rows have no runs of the method.
    """
    accuracy: dict[int | str, dict[str, dict[int, float]]] = {}
    for row in rows:
        parts = parse_name(row.name)
        accuracy.setdefault(parts["labels"], {}).setdefault(parts["method"], {})[row.seed] = row.top1_ema
    controls = list(dict.fromkeys(name for runs in accuracy.values() for name in runs if name != method))
    lines = []
    for labels in sorted(accuracy, key=budget_order):
        own = accuracy[labels].get(method, {})
        if not own:
            raise InputError(f"the ledger has no runs of {method} at {labels} labels; correct the mark, or export some")
        words = [str(labels), f"{percent(list(own.values()))} ({len(own)})"]
        for control in controls:
            theirs = accuracy[labels].get(control, {})
            gains = [100 * (own[seed] - theirs[seed]) for seed in sorted(own.keys() & theirs.keys())]
            words.append(gain_text(gains) + f" ({len(gains)})" * bool(gains))
        lines.append(words)
    return markdown_table(["labels", f"{method} (seeds)", *(f"over {control}" for control in controls)], lines)


def calibration_table(rows: Iterable[Row]) -> str:
    """The table of likelihood and calibration error, before and after the temperature.

    Args:
        rows: Of one backbone, data set and bias; seeds beside each other.

    Returns:
        A row for each budget and method, alone and with MUSCLE: mean negative log-likelihood in nats and mean expected
        calibration error in per cent over seeds, ``before -> after``.
    """
    shown = list(rows)
    by_name: dict[str, list[Row]] = {}
    for row in shown:
        by_name.setdefault(row.name, []).append(row)
    lines = []
    for cell in cells(shown):
        methods = (cell.base, with_muscle(cell.base))
        names = [make_name(cell.arch, method, cell.dataset, cell.labels, cell.variant) for method in methods]
        found = [by_name.get(name, []) for name in names]
        words = [_before_and_after(runs, "nll", 1, 2) for runs in found]
        words += [_before_and_after(runs, "ece", 100, 1) for runs in found]
        lines.append([str(cell.labels), cell.base, *words])
    head = ["labels", "method", "NLL alone", "NLL with MUSCLE", "error alone, %", "error with MUSCLE, %"]
    return markdown_table(head, lines)


def _before_and_after(rows: Sequence[Row], column: str, scale: float, digits: int) -> str:
    if not rows:
        return ""
    before, after = (
        statistics.fmean(scale * getattr(row, name) for row in rows) for name in (f"{column}_uncalibrated", column)
    )
    return f"{before:.{digits}f} -> {after:.{digits}f}"


def search_rows(
    rows: Iterable[Row],
    arch: str,
    dataset: str,
    labels: str,
    overrides: Mapping[str, Any],
    tried: Sequence[Mapping[str, Any]],
    methods: Sequence[str] = ZOO_METHODS,
) -> dict[tuple[int, str], list[Row]]:
    """The runs of a search among a ledger's: recipes changed in one thing at a time.

    Args:
        rows: The ledger of the dev fold.
        arch: Backbone.
        dataset: Data set.
        labels: Label budget.
        overrides: What all of them change of the named recipe.
        tried: What was changed besides; the first may be nothing.
        methods: Which methods.

    Returns:
        Runs by the position in ``tried`` and the method. An option of a part that a method does not have is not tried
        with it, and changes nothing of it where all change it.
    """
    rows = list(rows)
    runs = {}
    for position, changes in enumerate(tried):
        for method in methods:
            known = default_options(method).keys()
            common = {key: value for key, value in overrides.items() if _has_part(known, key)}
            if all(_has_part(known, key) for key in changes):
                name = make_name(arch, method, dataset, labels)
                runs[position, method] = runs_of(rows, name, recipe_of(name, {**common, **changes}).sha256)
    return runs


def _has_part(parts: Container[str], key: str) -> bool:
    """Whether a method of these parts has what ``key`` names, a part's option or any recipe's field."""
    return "." not in key or key.partition(".")[0] in parts


def search_table(
    runs: Mapping[tuple[int, str], Sequence[Row]],
    tried: Sequence[Mapping[str, Any]],
    methods: Sequence[str] = ZOO_METHODS,
    always: Mapping[str, Any] | None = None,
) -> str:
    """The table of a search: a row for each thing that was tried and a column for each method.

    The first row, where nothing was changed, says which options of methods (``always``) all rows have instead of their
    recipes', unless they change them.

    Top-1 in per cent, mean and standard deviation over seeds; where there are several, in brackets their number and the
    mean difference in points to the first row, of the seeds that both have. A single seed has them too where the first
    row has others besides.
    """
    lines = []
    for position, changes in enumerate(tried):
        words = [_assignments(changes) or "nothing" + (f", with {_assignments(always)}" if always else "")]
        for method in methods:
            accuracies, first = (
                {row.seed: row.top1_ema for row in runs.get((number, method), ())} for number in (position, 0)
            )
            words.append(_tried(accuracies, first if position else {}))
        lines.append(words)
    return markdown_table(["changed", *methods], lines)


def _assignments(values: Mapping[str, Any]) -> str:
    return " ".join(f"`{key}={value}`" for key, value in values.items())


def _tried(accuracies: Mapping[int, float], first: Mapping[int, float]) -> str:
    """A cell of a search's table: accuracies by seed, and those of the first row it is compared with."""
    if len(accuracies) < 2 and len(first) < 2:
        return percent(list(accuracies.values()))
    differences = [100 * (accuracies[seed] - first[seed]) for seed in accuracies.keys() & first.keys()]
    against = f"; {statistics.fmean(differences):+.1f}" if differences else ""
    return f"{percent(list(accuracies.values()))} ({len(accuracies)}{against})" if accuracies else ""


def zoo_rows(rows: Iterable[Row], names: Iterable[str]) -> list[Row]:
    """The ledger's rows of these checkpoints and their controls: supervised, and the method without MUSCLE."""
    rows = list(rows)
    shown: dict[str, None] = {}  # ordered, and each name once
    for name in names:
        method = parse_name(name)["method"]
        for shown_method in ("supervised", base_of(method), method):
            shown[with_method(name, shown_method)] = None
    return [row for name in shown for row in runs_of(rows, name, get_recipe(name).sha256)]


def zoo_table(rows: Iterable[Row], parameters: Mapping[str, int]) -> str:
    """The table of the zoo.

    Args:
        rows: See :func:`zoo_rows`.
        parameters: Checkpoint to how many parameters it has.

    Returns:
        A row for each checkpoint: top-1 in per cent, mean and standard deviation over seeds; the same of its two
        controls; MUSCLE's paired gain over the second, in points, with its 95 % interval; the mean negative
        log-likelihood in nats, before it was calibrated too where that is another, and in brackets that of the second.
        What a checkpoint does not have is left empty: one of a method without MUSCLE has no second control and no gain,
        and the supervised one no control at all.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    head = ["name", "parameters", "labels", "top-1", "supervised", "without MUSCLE", "paired gain", "nll", "seeds"]
    lines = []
    for name in sorted(parameters, key=_zoo_order):
        method, labels = parse_name(name)["method"], parse_name(name)["labels"]
        supervised, base = with_method(name, "supervised"), with_method(name, base_of(method))
        own = by_name.get(name, [])
        control = by_name.get(supervised, []) if supervised != name else []
        alone = by_name.get(base, []) if base != name else []
        words = [f"`{name}`", _short(parameters[name]), str(labels)]
        words += [percent([row.top1_ema for row in runs]) for runs in (own, control, alone)]
        pair = cells([*alone, *own])  # one cell, or none where the ledger has no runs
        words.append(gain_text(pair[0].gains) if pair else "")
        words.append(_nll(own) + (f" ({_nll(alone)})" if own and alone else ""))
        lines.append([*words, str(len(own))])
    return markdown_table(head, lines)


def _nll(runs: Sequence[Row]) -> str:
    """``0.75``: mean over runs; ``0.75, uncalibrated 1.20`` where a temperature changed it."""
    if not runs:
        return ""
    before = f", uncalibrated {statistics.fmean(row.nll_uncalibrated for row in runs):.2f}"
    return f"{statistics.fmean(row.nll for row in runs):.2f}" + before * any(row.temperature != 1 for row in runs)


def _zoo_order(name: str) -> tuple[Any, ...]:
    parts = parse_name(name)
    return parts["dataset"], parts["arch"], parts["variant"], parts["method"], budget_order(parts["labels"])


def _short(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count / 1e3:.0f} k"
