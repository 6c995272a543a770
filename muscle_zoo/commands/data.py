"""`data show`: a data set's split, and what its views look like."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import DataConfig
from ..data.images import OUTSIDE, UNKNOWN
from ..data.splits import names_sha256
from ..errors import InputError
from ..recipes import Recipe, get_recipe
from .arguments import add_source_arguments, parse_overrides, source_of

if TYPE_CHECKING:
    from ..engine.build import Data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `data`."""
    parser.add_argument("action", choices=("show",), help="print the split, draw the views")
    parser.add_argument("name", help="a data set (digits, cifar10, folder, ...) or a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in train: seed=1 bias=imbalance:10 ...")
    parser.add_argument("--labels", metavar="N", help="label budget (default: one a class, or the recipe's)")
    parser.add_argument("--out", type=Path, metavar="x.png", help="draw a contact sheet into this file")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the split and draws the contact sheet."""
    from ..engine.build import prepare_data

    if args.out is not None and args.out.suffix.lower() not in (".png", ".jpg", ".pdf", ".svg"):
        raise InputError(f"--out {args.out}: write a name that ends in .png")
    source = source_of(args)
    recipe = _recipe(args, source)
    prepared = prepare_data(recipe, source)
    print(describe(recipe, prepared))
    if args.out is not None:
        from ..data.contact_sheet import draw_sheet

        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(recipe, prepared.dataset, prepared.split, args.out)
        print(f"contact sheet: {args.out}")
    return 0


def _recipe(args: argparse.Namespace, source: DataConfig) -> Recipe:
    from ..data import load_dataset

    overrides = parse_overrides(args.overrides)
    if "." in args.name:
        return get_recipe(args.name, overrides | ({"labels": args.labels} if args.labels else {}))
    labels = args.labels
    if labels is None:
        image_size = get_recipe(f"cnn4.fixmatch_{args.name}_1", overrides).image_size
        labels = load_dataset(args.name, source, image_size).info.num_classes
    return get_recipe(f"cnn4.fixmatch_{args.name}_{labels}", overrides)


def describe(recipe: Recipe, data: Data) -> str:
    """The split as a person reads it."""
    info, split, train = data.dataset.info, data.split, data.dataset.train
    shape = "x".join(map(str, info.input_size))
    in_labels = Counter(train.labels[list(split.labeled)].tolist())
    in_pool = Counter(train.labels[list(split.unlabeled)].tolist())
    known = any(label >= 0 for label in in_pool)
    width = max(len(name) for name in info.class_names)
    lines = [
        f"{info.name}: {info.title}",
        f"  images       {info.train_size} for training, {info.test_size} for the test, {shape}",
        f"  labeled     {len(split.labeled)} of a budget of {split.labels} (seed {split.seed}, bias {split.bias})",
        f"  unlabeled   {len(split.unlabeled)}, the labeled ones included",
        f"  evaluated on {len(data.evaluation)} images of the {split.fold} fold",
        f"  split sha256 {split.sha256}",
        *([f"  names sha256 {names_sha256(train.names)}"] if train.names else []),
        f"  weak view    {recipe.weak}",
        f"  strong view  {recipe.strong}",
        f"  {'class':<{width}}  labeled" + ("  unlabeled" if known else ""),
    ]
    shown = range(info.num_classes) if info.num_classes <= 20 else range(10)
    for label in shown:
        pool = f"  {in_pool[label]:>10}" if known else ""
        lines.append(f"  {info.class_names[label]:<{width}}  {in_labels[label]:>8}{pool}")
    if len(shown) < info.num_classes:
        lines.append(f"  ... and {info.num_classes - len(shown)} classes more")
    if in_pool[UNKNOWN]:
        lines.append(f"  {'of unknown class':<{width}}  {'':>8}  {in_pool[UNKNOWN]:>10}")
    if in_pool[OUTSIDE]:
        lines.append(f"  {'outside the task':<{width}}  {'':>8}  {in_pool[OUTSIDE]:>10}")
    return "\n".join(lines)
