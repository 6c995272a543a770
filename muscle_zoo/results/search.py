"""A search: recipes changed in one thing at a time, compared on the dev fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..methods import default_options
from ..recipes import get_recipe
from ..recipes.defaults import ZOO_METHODS
from ..recipes.names import make_name
from .ledger import Row, markdown_table, percent, runs_of


def search_rows(
    rows: Iterable[Row],
    arch: str,
    dataset: str,
    labels: str,
    overrides: Mapping[str, Any],
    tried: Sequence[Mapping[str, Any]],
) -> dict[tuple[int, str], list[Row]]:
    """The runs of a search among a ledger's.

    Args:
        rows: The ledger of the dev fold.
        arch: Backbone.
        dataset: Data set.
        labels: Label budget.
        overrides: What all of them change of the named recipe.
        tried: What was changed besides; the first may be nothing.

    Returns:
        Runs by the position in ``tried`` and the method; an option of a part that a method does not have is not tried
        with it.
    """
    rows = list(rows)
    found = {}
    for place, changes in enumerate(tried):
        words = {**overrides, **changes}
        parts = {key.partition(".")[0] for key in words if "." in key}
        for method in ZOO_METHODS:
            if parts <= default_options(method).keys():
                name = make_name(arch, method, dataset, labels)
                found[place, method] = runs_of(rows, name, get_recipe(name, words).sha256)
    return found


def search_table(found: Mapping[tuple[int, str], Sequence[Row]], tried: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: top-1 in per cent, a row for each thing that was tried and a column for each method."""
    lines = []
    for place, changes in enumerate(tried):
        words = [" ".join(f"`{key}={value}`" for key, value in changes.items()) or "nothing"]
        for method in ZOO_METHODS:
            runs = found.get((place, method), ())
            words.append(percent([row.top1_ema for row in runs]) if runs else "")
        lines.append(words)
    return markdown_table(["changed", *ZOO_METHODS], lines)
