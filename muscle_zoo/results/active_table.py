"""What each rule of what to label next is worth: the table of a study of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..recipes.names import parse_name
from .stats import gain_text, percent
from .tables import markdown_table

CONTROL = "random"


def active_table(curves: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy at each number of labels, by method and rule, and what a rule gains over labels drawn at random.

    Args:
        curves: As ``muscle-zoo study --active`` writes them: ``rule``, ``name``, ``seed``, and for each round how many
            ``labels`` there were and the ``top1``, 0 to 1. All with the same numbers of labels.

    Returns:
        Means and standard deviations in per cent; and of every seed the mean over the rounds of the rule's top-1 less
        that of ``random``, in points, with its 95 % interval. The first labels are the same for all rules and are no
        round.

    Raises:
        InputError: The curves have different numbers of labels.

    Example:
        >>> curve = {"name": "cnn4.muscle_digits_20", "seed": 0, "labels": [20, 40]}
        >>> rules = [{**curve, "rule": "random", "top1": [0.8, 0.9]}, {**curve, "rule": "margin", "top1": [0.8, 0.92]}]
        >>> print(active_table(rules))
        | method | rule | 20 labels | 40 labels | over `random` | seeds |
        |---|---|---|---|---|---|
        | muscle | random | 80.0 | 90.0 |  | 1 |
        | muscle | margin | 80.0 | 92.0 | +2.0 | 1 |
    """
    numbers = {tuple(curve["labels"]) for curve in curves}
    if len(numbers) != 1:
        raise InputError(f"curves with {sorted(numbers)} labels have no table together; give each a study of its own")
    by_rule: dict[tuple[str, str], dict[int, Sequence[float]]] = {}
    for curve in curves:
        by_rule.setdefault((curve["name"], curve["rule"]), {})[curve["seed"]] = curve["top1"]
    lines = []
    for (name, rule), by_seed in by_rule.items():
        rounds = zip(*by_seed.values(), strict=True)
        gains = [] if rule == CONTROL else _gains(by_seed, by_rule.get((name, CONTROL), {}))
        words = [parse_name(name)["method"], rule, *(percent(accuracies) for accuracies in rounds)]
        lines.append([*words, gain_text(gains), str(len(by_seed))])
    head = ["method", "rule", *(f"{number} labels" for number in next(iter(numbers)))]
    return markdown_table([*head, f"over `{CONTROL}`", "seeds"], lines)


def _gains(by_seed: Mapping[int, Sequence[float]], control: Mapping[int, Sequence[float]]) -> list[float]:
    """The mean difference over the rounds in points, of the seeds that ran both."""
    differences = (
        (100 * (top1 - other) for top1, other in zip(by_seed[seed][1:], control[seed][1:], strict=True))
        for seed in sorted(by_seed.keys() & control.keys())
    )
    return [statistics.fmean(rounds) for rounds in differences]
