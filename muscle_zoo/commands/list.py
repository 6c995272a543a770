"""`list`: what there is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any

from ..checkpoints import registry
from ..checkpoints.listing import ModelInfo, list_models, model_info
from ..errors import ExitCode, InputError
from ..recipes import get_recipe
from ..results.ledger import merge, read_ledger, runs_of
from ..results.stats import mean_std
from .terminal import say

_OFFERED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `list`."""
    parser.add_argument("filter", nargs="?", default="*", metavar="WILDCARD", help="such as '*digits*', in quotes")
    parser.add_argument("--dataset", metavar="D", help="only those trained on it")
    parser.add_argument("--labels", metavar="N", help="only those with this label budget")
    parser.add_argument("--method", metavar="M", help="only those trained by it")
    parser.add_argument("--arch", metavar="A", help="only those of this architecture")
    parser.add_argument("--pretrained", action="store_true", help="only those with weights")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names alone, one a line")
    parser.add_argument("--json", action="store_true", help="print JSON; [] where nothing matches")


def run(args: argparse.Namespace) -> int:
    """Prints the models of the zoo; that nothing matches is no error."""
    query = {key: getattr(args, key) for key in ("filter", "pretrained", "dataset", "labels", "method", "arch")}
    names = list_models(**query)
    if not names:
        print(f"no model matches {_in_words(query)}; {_nearest(query)}", file=sys.stderr)
    infos, damaged = [], []
    for name in names:
        try:
            infos.append(model_info(name))
        except InputError as error:
            damaged.append(str(error))
    if args.json:
        print(json.dumps([asdict(info) for info in infos], indent=2))
    elif infos:
        lines = [info.name for info in infos] if args.quiet else table(infos, mean_of_runs(infos))
        say("\n".join(lines))
        if not args.quiet and (text := legend(lines[1:])):
            print(text, file=sys.stderr)  # a pipe reads the table alone
    for message in damaged:
        print(f"error: {message}", file=sys.stderr)
    return ExitCode.FAILED if damaged else ExitCode.DONE


def mean_of_runs(infos: Sequence[ModelInfo]) -> dict[str, float]:
    """The mean accuracy of the ledger's runs, 0 to 1, of models that have runs and no weights."""
    rows = [row for root in registry.card_folders() for row in read_ledger(root / registry.LEDGER_FILE)]
    names = {info.name for info in infos if not info.pretrained} & {row.name for row in rows}
    runs = {name: runs_of(merge(rows, ()), name, get_recipe(name).sha256) for name in names}
    return {name: mean_std([row.top1_ema for row in found])[0] for name, found in runs.items() if found}


def table(infos: Sequence[ModelInfo], means: Mapping[str, float] | None = None) -> list[str]:
    """The lines of the table, in columns: a name is never cut, and 50 characters of it fit into 80 columns.

    Args:
        infos: What to show.
        means: The accuracy of runs whose weights are not published, by name.
    """
    means = means or {}
    cells = [
        (info.name, f"{info.parameters / 1e6:.2f}", str(info.labels), _accuracy(info, means.get(info.name)))
        for info in infos
    ]
    cells = [("name", "params, M", "labels", "top-1, %"), *cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{name:<{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for name, *rest in cells
    ]


def legend(lines: Sequence[str]) -> str:
    """What is to be said of the last column of a table; empty where all are accuracies of weights."""
    words = {"(": "in brackets the mean of runs whose weights are not published", "-": "- no weights and no run yet"}
    signs = {line.split()[-1][0] for line in lines}
    said = [text for sign, text in words.items() if sign in signs]
    return "; ".join(["top-1 is that of the weights", *said]) if said else ""


def _accuracy(info: ModelInfo, mean: float | None) -> str:
    if info.top1 is not None:
        return f"{100 * info.top1:.2f}"
    if info.pretrained:
        return "weights"
    return "-" if mean is None else f"({100 * mean:.2f})"


def _in_words(query: dict[str, Any]) -> str:
    words = [f"{key}={query[key]}" for key in ("dataset", "labels", "method", "arch") if query[key] is not None]
    words += ["weights"] if query["pretrained"] else []
    return repr(query["filter"]) + (f" with {' and '.join(words)}" if words else "")


def _nearest(query: dict[str, Any]) -> str:
    """What would match if one condition were another."""
    pattern = query["filter"]
    if inside := list_models(**{**query, "filter": f"*{pattern}*"}):
        return f"'*{pattern}*' would match {len(inside)}"
    if others := list_models(**{**query, "filter": "*"}):
        letters = pattern.translate(dict.fromkeys(map(ord, "*?[]")))

        def unlike(name: str) -> int:
            return -sum(
                block.size for block in SequenceMatcher(None, letters, name, autojunk=False).get_matching_blocks()
            )

        return "the nearest are " + ", ".join(sorted(others, key=unlike)[:_OFFERED])
    for key in ("pretrained", "labels", "arch", "dataset", "method"):
        others = list_models(**{**query, key: None}) if query[key] else []
        if others:
            return f"without --{key} {len(others)} would, such as {', '.join(others[:_OFFERED])}"
    return "leave out some of the conditions"
