"""`data show`: a data set's split, and what its views look like; `data check`: what own pictures are taken for."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data import DataConfig, DataSet, load_dataset
from ..data.addresses import local_pictures
from ..errors import ExitCode, InputError
from ..recipes import Recipe, get_recipe
from .arguments import add_source_arguments, parse_overrides, source_of
from .terminal import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `data`."""
    parser.add_argument("action", choices=("show", "check"), help="show: the split and the views; check: own pictures")
    parser.add_argument(
        "name",
        help="a data set (digits, cifar10, folder, ...) or a recipe; for check: your folder or CSV, or wds:SHARDS",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in train: seed=1 bias=imbalance:10 ...")
    parser.add_argument("--labels", metavar="N", help="label budget (default: one a class, or the recipe's)")
    parser.add_argument("--out", type=Path, metavar="x.png", help="draw a contact sheet into this file")
    parser.add_argument("--quick", action="store_true", help="check: read the pictures' headers alone")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what a data set, or one's own folder, is."""
    return _check(args) if args.action == "check" else _show(args)


def _check(args: argparse.Namespace) -> int:
    """Prints all that is to be said about one's own pictures, and changes nothing."""
    from ..data.check import check_pictures

    given = [word for word in (args.labels, args.out, *args.overrides) if word]
    if given:
        raise InputError(f"data check takes a folder or CSV alone; leave {given[0]} out")
    root = args.data if args.name == "folder" and args.data else Path(args.name)
    root = local_pictures(root).expanduser()
    if not root.exists():
        raise InputError(f"{root} does not exist; give your folder or CSV of pictures")
    try:
        report = check_pictures(root, whole=not args.quick)
    except InputError as error:
        say(f"problem    {printable(str(error))}\nsomething needs a decision")
        return ExitCode.FAILED
    for line in report.lines():
        say(printable(line))
    return ExitCode.FAILED if report.needs_a_decision else ExitCode.DONE


def _show(args: argparse.Namespace) -> int:
    """Prints the split and draws the contact sheet."""
    from ..data.describe import describe_data
    from ..engine.build import prepare_data
    from ..results.figures import SUFFIXES

    if args.out is not None and args.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {args.out}: write a name that ends in .png")
    config = source_of(args)
    recipe, dataset = _recipe(args, config)
    data = prepare_data(recipe, config, dataset)
    wrong = 0 if data.true_labels is None else int((data.true_labels != data.dataset.train.labels).sum())
    print(describe_data(recipe, data.dataset, data.split, len(data.evaluation), wrong))
    if args.out is not None:
        from ..data.contact_sheet import draw_sheet

        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(recipe, data.dataset, data.split, args.out)
        print(f"contact sheet: {args.out}")
    return ExitCode.DONE


def _recipe(args: argparse.Namespace, config: DataConfig) -> tuple[Recipe, DataSet | None]:
    """The recipe to show; and its data set, if that had to be loaded to learn how many labels one a class are."""
    overrides = parse_overrides(args.overrides)
    if "." in args.name:
        return get_recipe(args.name, overrides | ({"labels": args.labels} if args.labels else {})), None
    if args.labels is not None:
        return get_recipe(f"cnn4.fixmatch_{args.name}_{args.labels}", overrides), None
    recipe = get_recipe(f"cnn4.fixmatch_{args.name}_1", overrides)
    dataset = load_dataset(recipe.dataset, config, recipe.image_size)
    return get_recipe(f"cnn4.fixmatch_{args.name}_{dataset.info.num_classes}", overrides), dataset
