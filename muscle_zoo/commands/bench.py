"""`bench`: speed, measured."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExitCode, InputError
from ..recipes import Recipe, get_recipe
from ..results.tables import markdown_table
from .arguments import add_device_arguments, add_source_arguments, parse_overrides, source_of

if TYPE_CHECKING:
    from ..engine.options import RunOptions

DEFAULT = "wrn_28_2.fixmatch_cifar10_250"
WHAT = {
    "step": "a training step next to the bare network",
    "eval": "an evaluation",
    "data": "how fast views are made and pictures read",
    "all": "these three",
    "embed": "embedding pictures next to a loop of timm and torchvision",
    "head": "a step of a classifier on embeddings next to a linear layer's",
    "methods": "a step of every method next to a supervised one",
    "race": "the time to an accuracy on the dev fold",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `bench`."""
    parser.add_argument("what", choices=tuple(WHAT), help="; ".join(f"{name}: {text}" for name, text in WHAT.items()))
    parser.add_argument("name", nargs="?", help=f"a recipe (default: {DEFAULT}; race has none)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change the recipe: cpu_threads=1 mu=4 ...")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--target",
        type=float,
        metavar="PERCENT",
        help="race: the accuracy to reach; that none reached it is no failure",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="race: how many (default: 3)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="race: draw accuracy against time, here")
    parser.add_argument(
        "--beside", type=Path, nargs="+", metavar="JSON", help="race: earlier results (--json) to draw in the figure"
    )
    add_device_arguments(parser)
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    from ..bench import measure
    from ..engine.options import RunOptions

    words = [word for word in (args.name, *args.overrides) if word]
    name = words.pop(0) if words and "=" not in words[0] else None
    if name is None and args.what == "race":
        raise InputError("bench race: a recipe is missing; give one, such as cnn4.muscle_digits_10 --target 80")
    recipe = get_recipe(name or DEFAULT, overrides := parse_overrides(words))
    options = RunOptions(mixed_precision=args.mixed_precision, cpu=args.cpu, compile=args.compile)
    if args.what == "race":
        if fixed := [key for key in ("fold", "seed") if key in overrides]:
            raise InputError(f"{fixed[0]}=: a race is on the dev fold, of seeds 0 to --seeds less one; leave it out")
        return _race(args, recipe, options)
    for name in ("target", "seeds", "figure", "beside"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for `bench race`; leave it out")
    print(f"measuring {WHAT[args.what]}: {recipe.name}; half a minute or more", file=sys.stderr, flush=True)
    result = measure(args.what, recipe, options, source_of(args))
    print(json.dumps(result, indent=2) if args.json else render(result))
    return ExitCode.DONE


def _race(args: argparse.Namespace, recipe: Recipe, options: RunOptions) -> int:
    """Races, prints and draws."""
    from ..bench import measure_race, require_race
    from ..results.figures import SUFFIXES
    from ..results.races import plot_races, read_race

    if args.target is None:
        raise InputError("bench race: --target is missing; give an accuracy in per cent, such as --target 60")
    if args.beside and args.figure is None:
        raise InputError("--beside is for a figure; give --figure FILE, or leave it out")
    if args.figure is not None and args.figure.suffix.lower() not in SUFFIXES:
        raise InputError(f"--figure {args.figure}: write a name that ends in {' or '.join(SUFFIXES)}")
    before = [read_race(path) for path in args.beside or ()]
    seeds = 3 if args.seeds is None else args.seeds
    require_race(recipe, args.target / 100, seeds)
    count = f"{seeds} seed{'' if seeds == 1 else 's'}"
    print(
        f"racing {recipe.name} to {args.target:g} % on the dev fold, {count} of up to {recipe.steps:,} steps; "
        "Ctrl-C ends it, and nothing is kept",
        file=sys.stderr,
        flush=True,
    )
    say = partial(print, file=sys.stderr, flush=True)
    result = measure_race(recipe, args.target / 100, seeds, options, source_of(args), say)
    print(json.dumps(result, indent=2) if args.json else render(_without_laps(result)))
    if args.figure is not None:
        plot_races([*before, result], args.figure)
    return ExitCode.DONE


def _without_laps(result: dict[str, Any]) -> dict[str, Any]:
    """A race's result as a person reads it, with a row for each seed."""
    rows = [
        {
            "seed": race["seed"],
            **{key: race["laps"][-1][key] for key in ("step", "seconds")},
            "top-1, %": f"{100 * race['laps'][-1]['top1']:.1f}",
            "operations": f"{race['operations']:.1e}",
            "reached": "yes" if race["reached"] else "no",
        }
        for race in result["races"]
    ]
    medians = {f"median {key}": result[key] for key in ("seconds", "steps", "operations") if result[key] is not None}
    there = medians or {"medians": "none: at most half of the seeds came there"}
    others = {key: value for key, value in result.items() if key not in ("seconds", "steps", "operations", "races")}
    changed, target = " ".join(result["changed"]) or "nothing", f"{100 * result['target']:g} %"
    return {**others, "changed": changed, "target": target, **there, "races": rows}


def render(result: dict[str, Any], indent: str = "") -> str:
    """The result as a person reads it."""
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            lines += [f"{indent}{key}", render(value, indent + "  ")]
            continue
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(_table(value))
            continue
        if isinstance(value, dict):
            value = "  ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            value = "x".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:,.3f}".rstrip("0").rstrip(".")
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"{indent}{key:<20} {value}")
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of rows with the same keys."""
    words = ([f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
    return markdown_table(list(rows[0]), words)
