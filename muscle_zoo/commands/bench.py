"""`bench`: speed, measured."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from typing import Any

import torch

from ..data import DataSet, dataset_info, load_dataset
from ..errors import MissingDataError
from ..recipes import Recipe, get_recipe
from .data import add_source_arguments, source_of
from .train import parse_overrides

DEFAULT = "wrn_28_2.fixmatch_cifar10_250"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `bench`."""
    parser.add_argument("what", choices=("data",), help="data: how fast views are made and pictures read")
    parser.add_argument("name", nargs="?", default=DEFAULT, help=f"a recipe (default: {DEFAULT})")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change the recipe: cpu_threads=1 mu=4 ...")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    from ..bench import bench_data

    words = args.overrides
    if "=" in args.name:
        words, args.name = [args.name, *words], DEFAULT
    recipe = get_recipe(args.name, parse_overrides(words))
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    dataset = _images(recipe, args)
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.cpu_threads or before)
    try:
        result = {"recipe": recipe.name, **bench_data(recipe, dataset, device), **_machine(device)}
    finally:
        torch.set_num_threads(before)
    print(json.dumps(result, indent=2) if args.json else render(result))
    return 0


def _images(recipe: Recipe, args: argparse.Namespace) -> DataSet:
    """The recipe's images; random ones of the same shape and number of classes where they are not on disk."""
    try:
        return load_dataset(recipe.dataset, replace(source_of(args), download=False), recipe.image_size)
    except MissingDataError:
        info = dataset_info(recipe.dataset)
    size = (info.input_size[0], *([recipe.image_size] * 2 if recipe.image_size else info.input_size[1:]))
    return load_dataset(f"synthetic:{'x'.join(map(str, size))}x{info.num_classes}")


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"threads": torch.get_num_threads(), "device": name, "versions": versions}


def render(result: dict[str, Any]) -> str:
    """The result as a person reads it."""
    lines = []
    for key, value in result.items():
        if isinstance(value, dict):
            value = "  ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list):
            value = "x".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:,.3f}".rstrip("0").rstrip(".")
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"{key:<20} {value}")
    return "\n".join(lines)
