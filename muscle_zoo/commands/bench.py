"""`bench`: speed, measured."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, replace
from typing import Any

import torch

from ..data import DataSet, dataset_info, load_dataset
from ..errors import ExitCode, MissingDataError
from ..recipes import Recipe, get_recipe
from ..results.tables import markdown_table
from .arguments import add_device_arguments, add_source_arguments, parse_overrides, source_of

DEFAULT = "wrn_28_2.fixmatch_cifar10_250"
WHAT = {
    "step": "a training step next to the bare network",
    "eval": "an evaluation",
    "data": "how fast views are made and pictures read",
    "all": "these three",
    "methods": "a step of every method next to a supervised one",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `bench`."""
    parser.add_argument("what", choices=tuple(WHAT), help="; ".join(f"{name}: {text}" for name, text in WHAT.items()))
    parser.add_argument("name", nargs="?", default=DEFAULT, help=f"a recipe (default: {DEFAULT})")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change the recipe: cpu_threads=1 mu=4 ...")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_arguments(parser)
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    words = args.overrides
    if "=" in args.name:
        words, args.name = [args.name, *words], DEFAULT
    recipe = get_recipe(args.name, parse_overrides(words))
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.cpu_threads or before)
    print(f"measuring {WHAT[args.what]}: {recipe.name}; half a minute or more", file=sys.stderr, flush=True)
    try:
        result = {"recipe": recipe.name, **_measure(args, recipe)}
    finally:
        torch.set_num_threads(before)
    print(json.dumps(result, indent=2) if args.json else render(result))
    return ExitCode.DONE


def _measure(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    from ..bench import bench_data, bench_eval, bench_methods, bench_step
    from ..engine.options import RunOptions

    options = RunOptions(mixed_precision=args.mixed_precision, cpu=args.cpu, compile=args.compile)
    dataset, test_images = _images(recipe, args)
    if dataset.info.name != recipe.dataset:  # random images have no 4,000 labels
        recipe = replace(recipe, dataset=dataset.info.name, labels=dataset.info.num_classes)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    parts = {
        "step": lambda: bench_step(recipe, dataset, options, test_images),
        "eval": lambda: bench_eval(recipe, dataset, options),
        "data": lambda: bench_data(recipe, dataset, device),
    }
    machine = _machine(device)
    if args.what == "all":
        return {"images": dataset.info.name, **{name: measure() for name, measure in parts.items()}, **machine}
    if args.what == "methods":
        costs, mi_ms = bench_methods(recipe, dataset, options)
        rows = {"methods": [asdict(cost) for cost in costs], "mi_ms": round(mi_ms, 3)}
        return {"images": dataset.info.name, **rows, "precision": args.mixed_precision or "no", **machine}
    return {"images": dataset.info.name, **parts[args.what](), **machine}


def _images(recipe: Recipe, args: argparse.Namespace) -> tuple[DataSet, int]:
    """The recipe's images; random ones of the same shape and number of classes where they are not on disk.

    Returns:
        The data set, and how many test images the recipe's own has.
    """
    try:
        found = load_dataset(recipe.dataset, replace(source_of(args), download=False), recipe.image_size)
        return found, len(found.test)
    except MissingDataError:
        info = dataset_info(recipe.dataset)
    size = (info.input_size[0], *([recipe.image_size] * 2 if recipe.image_size else info.input_size[1:]))
    return load_dataset(f"synthetic:{'x'.join(map(str, size))}x{info.num_classes}"), info.test_size


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"threads": torch.get_num_threads(), "device": name, "versions": versions}


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
