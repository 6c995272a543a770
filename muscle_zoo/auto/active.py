"""Label, train, label again: what each rule of `suggest` is worth, on data whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..engine.build import split_of
from ..engine.options import RunOptions
from ..engine.run_folder import RunFolder
from ..errors import InputError
from ..files import read_json, write_json
from ..recipes import Recipe
from ..sessions.train import train_run
from .run_pictures import load_run_pictures
from .suggest import RULES, choose
from .suggestions import pool_of

CURVES_FILE = "active.json"


@dataclass(frozen=True)
class ActiveResult:
    """What became of an active study.

    Attributes:
        curves: A curve for each rule, method and seed, see :func:`run_active`.
        finished: Whether all runs are done; else the same call goes on.
    """

    curves: list[dict[str, Any]]
    finished: bool


def check_active(recipes: Sequence[Recipe], rules: Sequence[str], rounds: int, add: int | None = None) -> None:
    """Refuses what cannot be run, before anything is.

    Raises:
        InputError: A rule is unknown, there are no rounds, or a recipe has a split or a share of labels already.
    """
    for rule in rules:
        if rule not in RULES:
            raise InputError(f"--active {rule} is unknown; give some of {', '.join(RULES)}")
    if rounds < 1:
        raise InputError(f"--rounds {rounds} is out of range; give 1 or more")
    if add is not None and add < 1:
        raise InputError(f"--add {add} is out of range; give 1 or more")
    for recipe in recipes:
        if recipe.split or not isinstance(recipe.labels, int):
            raise InputError(f"{recipe.name} split={recipe.split}: --active begins with a number of labels, drawn")


def run_active(
    recipes: Sequence[Recipe],
    rules: Sequence[str],
    rounds: int,
    out: Path,
    options: RunOptions,
    add: int | None = None,
) -> ActiveResult:
    """Trains on a few labels, asks each rule for more, and trains again, as often as is said.

    The first labels are the recipe's own split, the same for all rules. Later rounds begin anew, from the same initial
    weights, with all labels known by then. The labels that a rule asks for are taken from the data set. What is done
    already is not done again. The runs are in folders of their own, with a split as a file, and belong into no ledger.

    Args:
        recipes: Methods and seeds, with a number of labels to begin with.
        rules: Of :data:`muscle_zoo.auto.suggest.RULES`.
        rounds: How often labels are added.
        out: The folders of the runs, and ``active.json`` with the curves.
        options: How each run is carried out.
        add: How many labels a round adds; by default as many as there were at first.

    Returns:
        For each rule, method and seed ``rule``, ``name`` and ``seed``; and for each round how many ``labels`` there
        were, the ``top1`` of the averaged weights, and the ``positions`` of the images that were labeled for it.

    Raises:
        InputError: See :func:`check_active`; or no image is left to label.
    """
    check_active(recipes, rules, rounds, add)
    curves: list[dict[str, Any]] = []
    for recipe in recipes:
        assert isinstance(recipe.labels, int)
        for rule in rules:
            curve = _curve(recipe, rule, rounds, add or recipe.labels, out, options)
            if curve is None:
                return ActiveResult(curves, finished=False)
            curves.append(curve)
            write_json(out / CURVES_FILE, curves)
    return ActiveResult(curves, finished=True)


def _curve(recipe: Recipe, rule: str, rounds: int, add: int, out: Path, options: RunOptions) -> dict[str, Any] | None:
    """One rule's curve; None where it was stopped."""
    home = out / "runs" / recipe.name / f"seed{recipe.seed}"
    curve: dict[str, Any] = {"rule": rule, "name": recipe.name, "seed": recipe.seed}
    curve |= {"labels": [], "top1": [], "positions": []}
    folder, current = home / "first", recipe
    for turn in range(rounds + 1):
        result = train_run(current, folder, options)
        if not result.finished:
            return None
        labeled = (RunFolder(folder).read_split() or {})["labelled"]
        known = {position for earlier in curve["positions"] for position in earlier}
        curve["labels"].append(len(labeled))
        curve["top1"].append(result.metrics.top1)
        curve["positions"].append([position for position in labeled if position not in known])
        if turn < rounds:
            file = home / rule / f"labels{turn + 1}.json"
            if not file.is_file():
                more = _ask(folder, rule, add, recipe.seed, options)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, {"dataset": recipe.dataset, "labelled": sorted([*labeled, *more])})
            folder = home / rule / f"round{turn + 1}"
            current = replace(recipe, labels=len(read_json(file)["labelled"]), split=str(file))
    return curve


def _ask(run: Path, rule: str, number: int, seed: int, options: RunOptions) -> list[int]:
    """Positions of the images of a run's own pool that a rule would have labeled next."""
    pictures = load_run_pictures(run, options.data, options.cpu)
    # The run's own split, and not which pictures have a label: in a folder that answers for the labels all have one.
    split = split_of(pictures.recipe, pictures.dataset)[1]
    pictures = replace(pictures, labeled=torch.tensor(split.labeled, dtype=torch.int64))
    left = torch.tensor(sorted(set(split.unlabeled) - set(split.labeled)), dtype=torch.int64)
    if len(left) < number:
        raise InputError(f"{run}: {len(left)} images are left to label, not {number} more; give fewer --rounds")
    chosen = choose(rule, pool_of(pictures, left, rule, seed, options.cpu), number)
    return [int(left[choice.position]) for choice in chosen]
