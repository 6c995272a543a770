"""A study: which runs it has, and which rows of a ledger are its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from ..errors import InputError, suggest
from ..methods import (
    METHODS,
    base_of,
    default_options,
    learns_from_teacher,
    method_names,
    takes_steps,
    trains_classifier,
    with_muscle,
)
from ..recipes import Recipe, get_recipe
from ..recipes.names import make_name, parse_name
from .ledger import Row


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
        overrides: Other changes to every recipe; an option of a method (``muscle.weight``) to those that have it,
            ``teacher`` to those that learn from one.

    Returns:
        The recipes.

    Raises:
        InputError: A name or value is wrong, no recipe has an option, or a teacher is missing or of no use.
    """
    for method in methods:
        if method not in METHODS:
            if method in method_names():
                raise InputError(
                    f"--methods {method} is of MUSCLE, which every study adds by itself; give base methods"
                )
            raise InputError(f"--methods {method} is not a base method; give some of {', '.join(METHODS)}")
        if not trains_classifier(method):
            raise InputError(f"--methods {method} trains no classifier to compare; train it alone, then give init=RUN")
    if len({budget.endswith("pct") for budget in labels}) > 1:
        raise InputError(f"--labels {' '.join(labels)} mixes numbers and shares; give each kind its own study")
    _require_used(methods, overrides or {})
    recipes = []
    for seed, dataset, bias, budget, base in product(seeds, datasets, biases, labels, methods):
        changes = {**(overrides or {}), "seed": seed, "bias": bias}
        for method in (base, with_muscle(base)) if takes_steps(base) else (base,):
            recipes.append(recipe_of(make_name(arch, method, dataset, budget), changes))
    _require_teacher(recipes, (overrides or {}).get("teacher", ""))
    return recipes


def recipe_of(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe of a study: of its overrides other methods' options do not count, nor a teacher it does not learn from.

    Example:
        >>> changed = {"muscle.weight": 2, "steps": 5}
        >>> recipe_of("cnn4.vat_digits_10", changed) == get_recipe("cnn4.vat_digits_10", {"steps": 5})
        True
    """
    parts = default_options(parse_name(name)["method"])
    own = {key: value for key, value in overrides.items() if "." not in key or key.split(".")[0] in parts}
    recipe = get_recipe(name, own)
    if recipe.teacher and not learns_from_teacher(recipe.method, recipe.options):
        return replace(recipe, teacher="")
    return recipe


def _require_teacher(recipes: Sequence[Recipe], teacher: str) -> None:
    """Refuses a study of which runs would fail for want of a teacher, or where none takes the one given."""
    taught = [recipe.method for recipe in recipes if learns_from_teacher(recipe.method, recipe.options)]
    if taught and not teacher:
        remedy = "give teacher=RUN, or a name of `muscle-zoo list --pretrained`"
        raise InputError(f"--methods {base_of(taught[0])} learns from a teacher; {remedy}")
    if teacher and not taught:
        raise InputError(f"teacher={teacher}: no method of this study learns from a teacher; leave it out")


def _require_used(methods: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Refuses an option that no method of a study has."""
    names = {name for base in methods for name in ((base, with_muscle(base)) if takes_steps(base) else (base,))}
    known = {f"{part}.{key}" for name in names for part, keys in default_options(name).items() for key in keys}
    known |= {f"{part.partition('.')[0]}.preset" for part in known}
    if wrong := next((key for key in overrides if "." in key and key not in known), None):
        raise InputError(f"override {wrong!r}: no method of this study has it; {suggest(wrong, known)}")


def shard(recipes: Sequence[Recipe], index: int, count: int) -> list[Recipe]:
    """One machine's part of a study's runs; the parts of all have each run once.

    A method alone and the same with MUSCLE stay together, so that a part has paired gains of its own.

    Args:
        recipes: The runs, as :func:`plan` makes them.
        index: Which part, from 1 on.
        count: How many parts there are.

    Raises:
        InputError: There is no such part.

    Example:
        >>> runs = plan("cnn4", ["supervised", "vat"], ["digits"], ["10"], [0])
        >>> [recipe.method for recipe in shard(runs, 2, 2)]
        ['vat', 'muscle_vat']
    """
    if not 1 <= index <= count:
        raise InputError(f"--shard {index}/{count}: give I/N with I from 1 to N, such as 1/{max(count, 1)}")
    pairs: dict[tuple[Any, ...], list[Recipe]] = {}
    for recipe in recipes:
        key = (recipe.seed, recipe.dataset, recipe.bias, recipe.labels, base_of(recipe.method))
        pairs.setdefault(key, []).append(recipe)
    parts: list[list[Recipe]] = [[] for _ in range(count)]
    for pair in pairs.values():
        min(parts, key=len).extend(pair)  # the first of the shortest
    return parts[index - 1]


def select(
    rows: Iterable[Row],
    arch: str,
    dataset: str,
    *,
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
    selected = []
    for row in rows:
        parts = parse_name(row.name)
        if (parts["arch"], parts["dataset"], parts["variant"]) != (
            arch,
            dataset,
            variant,
        ) or row.labeled_bias not in biases:
            continue
        if methods and base_of(parts["method"]) not in methods:
            continue
        if labels and str(parts["labels"]) not in labels:
            continue
        # Runs of other overrides, and of a recipe's older versions, stand in the ledger under the same name.
        if row.recipe_sha256 == recipe_of(row.name, {**(overrides or {}), "bias": row.labeled_bias}).sha256:
            selected.append(row)
    return selected
