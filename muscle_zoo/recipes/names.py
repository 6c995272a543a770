"""A checkpoint's, a recipe's and a ledger row's name: ``{arch}.{method}_{dataset}_{labels}[_{variant}]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

import timm

from ..errors import InputError, suggest
from ..methods import method_names
from .defaults import DATASETS, VARIANTS, ZOO, ZOO_METHODS

__all__ = ["budget_order", "make_name", "parse_name", "recipe_names", "with_method"]


def make_name(arch: str, method: str, dataset: str, labels: int | str, variant: str = "") -> str:
    """The name of these parts, which are not checked."""
    return f"{arch}.{method}_{dataset}_{labels}" + (f"_{variant}" if variant else "")


_NAMED = [
    make_name(arch, method, dataset, labels)
    for arch, dataset, budgets in ZOO
    for labels in budgets
    for method in ZOO_METHODS
]


def recipe_names() -> list[str]:
    """The recipes that are named; any other name of the grammar is a recipe's too."""
    return list(_NAMED)


def parse_name(name: str) -> dict[str, Any]:
    """Splits a name into its parts: what :func:`make_name` takes.

    Raises:
        InputError: The name does not follow the grammar, or a part of it is unknown; near names are given.
    """

    def wrong(what: str) -> NoReturn:
        raise InputError(f"recipe {name!r} is unknown: {what} (a name is ARCH.METHOD_DATASET_LABELS[_VARIANT])")

    arch, _, tag = name.partition(".")
    if not tag:
        wrong(_no_tag(arch))
    if not timm.is_model(arch):
        wrong(f"arch {arch!r}; {suggest(arch, timm.list_models())}")
    method = _first(tag, method_names())
    longest = max((name for name in DATASETS if f"_{name}_" in tag), key=len, default="")
    meant = tag.partition(f"_{longest}_")[0] if longest else method
    if not method or meant != method:
        word = meant or tag.partition("_")[0]
        wrong(f"method {word!r}; {suggest(word, method_names())}")
    rest = tag.removeprefix(f"{method}_")
    made = re.match(r"synthetic:[0-9]+x[0-9]+x[0-9]+x[0-9]+", rest)  # the one data set that has parts itself
    datasets = [*(name for name in DATASETS if name != "synthetic"), *([made[0]] if made else [])]
    if rest in datasets:
        wrong("the label budget is missing, such as _10")
    dataset = _first(rest, datasets)
    labels, _, variant = rest.removeprefix(f"{dataset}_").partition("_")
    budget = re.fullmatch(r"[0-9]+(pct)?", labels)
    word = rest.rpartition("_")[0] or rest
    if not dataset or not (budget or word in datasets):
        wrong(f"data set {word!r}; {suggest(word, DATASETS)}")
    if not budget:
        wrong(f"labels {labels!r}; give a number")
    if f"{dataset}_{labels}" != rest and (arch, dataset, variant) not in VARIANTS:
        known = [name for *place, name in VARIANTS if place == [arch, dataset]]
        wrong(f"variant {variant!r}; {suggest(variant, known) if known else 'there is none'}")
    number = labels if budget[1] else int(labels)
    return {"arch": arch, "method": method, "dataset": dataset, "labels": number, "variant": variant}


def with_method(name: str, method: str) -> str:
    """The name of the same recipe with another method: ``cnn4.muscle_digits_10`` -> ``cnn4.supervised_digits_10``."""
    return make_name(**{**parse_name(name), "method": method})


def budget_order(labels: int | str) -> tuple[bool, int]:
    """Sorts label budgets: numbers first, then shares such as ``10pct``, each by size."""
    return isinstance(labels, str), int(str(labels).removesuffix("pct"))


def _first(text: str, known: Iterable[str]) -> str:
    """The longest of these that the text begins with, up to a ``_``; empty if there is none."""
    return max((word for word in known if text.startswith(f"{word}_")), key=len, default="")


def _no_tag(arch: str) -> str:
    """What is wrong with a name that has no part after a dot."""
    if not timm.is_model(arch):
        return suggest(arch, (*(known for known, *_ in ZOO), *_NAMED))
    example = next((name for name in _NAMED if name.startswith(f"{arch}.muscle_")), f"{arch}.muscle_cifar10_250")
    return f"it is an architecture; name a recipe of it, such as {example}"
