"""`train`: a recipe, or one's own pictures, become a run folder; without either, the quickstart."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from ..auto.choices import BACKBONE, FOLDS, METHODS_COMPARED, Choices, is_own_pictures
from ..checkpoints.target import checkpoint_name
from ..data.addresses import local_pictures
from ..data.catalog import FOLDER
from ..engine.processes import is_main_process
from ..engine.run_folder import RunFolder
from ..errors import ExitCode, InputError
from ..recipes import get_recipe
from ..recipes.names import make_name
from .arguments import add_run_arguments, parse_overrides, run_options
from .terminal import say

if TYPE_CHECKING:
    from ..sessions.train import RunResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="FOLDER | NAME",
        help="your pictures, a folder or CSV; or a recipe, ARCH.METHOD_DATASET_LABELS; without either the quickstart",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change the recipe: seed=1 init=RUN muscle.weight=0.5; `info NAME` shows all",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start over; the old run folder is renamed, never overwritten"
    )
    add_run_arguments(parser)
    own = parser.add_argument_group("your own pictures", "train FOLDER compares methods and trains the best")
    own.add_argument("--methods", metavar="A,B", help=f"to compare (default: {', '.join(METHODS_COMPARED)})")
    own.add_argument("--folds", type=int, metavar="K", help=f"of the cross-validation (default: {FOLDS})")
    own.add_argument("--backbone", metavar="WEIGHTS", help=f"what embeds the pictures, as init (default: {BACKBONE})")
    own.add_argument("--seed", type=int, help="the same as seed=N")


def run(args: argparse.Namespace) -> int:
    """Trains a recipe, or the quickstart."""
    try:
        if args.seed is not None:
            args.overrides.append(f"seed={args.seed}")  # given both ways it is one too many, which is said
        if (pictures := _own_pictures(args)) is not None:
            return _train_pictures(pictures, args)
        if unused := [f"--{name}" for name in ("methods", "folds", "backbone") if getattr(args, name) is not None]:
            raise InputError(f"{unused[0]} is for a folder of your own pictures: train FOLDER {unused[0]} ...")
        return _quickstart(args) if args.name is None or "=" in args.name else _train(args)
    finally:
        # A process that ends while its group is open may abort, and its launcher would call that a failure.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _own_pictures(args: argparse.Namespace) -> Path | None:
    """The folder or CSV of one's own pictures, if that is what is to be trained on."""
    name = None if args.name is None or "=" in args.name else args.name
    if name is None and args.data is not None:  # without a recipe there is nothing else to do with data
        args.overrides = [*([args.name] if args.name else []), *args.overrides]
        own: Path = args.data
        return own
    if name is None or not is_own_pictures(name):
        return None
    if args.data is not None:
        raise InputError(f"pictures are given twice, {name} and --data {args.data}; keep one")
    return Path(name)


def _train_pictures(pictures: Path, args: argparse.Namespace) -> int:
    from ..auto.session import own_name, train_pictures

    if args.methods and (more := [word for word in args.overrides if "=" not in word]):
        joined = ",".join([args.methods, *more])
        raise InputError(f"--methods {args.methods} {' '.join(more)}: methods are joined by commas; write {joined}")
    choices = Choices(
        methods=tuple(filter(None, (args.methods or "").split(","))),
        folds=FOLDS if args.folds is None else args.folds,
        backbone=checkpoint_name(args.backbone) if args.backbone else BACKBONE,
        overrides=dict(parse_overrides(args.overrides)),
    )
    pictures = local_pictures(pictures)
    out = args.out or Path("runs") / own_name(pictures)
    result = train_pictures(pictures, choices, run_options(args), out, began=_began(), say=say)
    if not result.finished:
        say(stopped(out))
    return ExitCode.DONE if result.finished else ExitCode.STOPPED


def _began() -> float:
    """When this process began, as time.monotonic() tells it: the time limit counts the imports too."""
    return time.monotonic() - (time.time() - psutil.Process().create_time())


def _train(args: argparse.Namespace) -> int:
    from ..engine.build import fold_to_measure
    from ..sessions.train import train_run

    overrides = parse_overrides(args.overrides)
    recipe, options = get_recipe(args.name, overrides), run_options(args)
    recipe = recipe if "fold" in overrides else fold_to_measure(recipe, options.data)
    out = args.out or Path("runs") / recipe.name / f"seed{recipe.seed}"
    result = train_run(recipe, out, options, began=_began())
    if is_main_process():
        print(summary(result) if result.finished else stopped(out))
    return ExitCode.DONE if result.finished else ExitCode.STOPPED


def _quickstart(args: argparse.Namespace) -> int:
    from ..sessions.quickstart import quickstart

    if args.name is not None:
        raise InputError(f"override {args.name!r} needs a recipe before it: train NAME key=value ...")
    out: Path = args.out or Path("runs") / "quickstart"
    options = run_options(args)  # before the old folder is renamed: wrong options change nothing
    figures = quickstart(out, options)
    if is_main_process():
        print(stopped(out) if figures is None else quickstart_table(figures, out))
    return ExitCode.STOPPED if figures is None else ExitCode.DONE


def stopped(out: Path) -> str:
    """What to do about a run that was stopped."""
    return f"stopped, what was done is saved; run the same command again to go on with {out}"


def summary(result: RunResult) -> str:
    """What a finished run has to say: its accuracy, where it is, and how to load it."""
    load = (
        f"no network: {result.without_network}" if result.without_network else f"load it:    {load_line(result.path)}"
    )
    lines = [f"run folder: {result.path}", load]
    data = RunFolder(result.path).read_status().get("data")
    where = f" --data {shlex.quote(data)}" if isinstance(data, str) and data else ""
    if result.row is None and (measured := result.neighbors):
        knn = f"nearest neighbors among {measured['references']} labeled images"
        knn += f": {100 * measured['top1']:.2f} % of {measured['n']} images"
        lines.insert(0, f"{result.recipe.name}, seed {result.recipe.seed}, no classifier; {knn}")
        budget = "all" if result.recipe.dataset == FOLDER else "40"
        name = make_name(result.recipe.arch, "muscle", result.recipe.dataset, budget)
        lines.append(f"go on:      muscle-zoo train {name} {shlex.quote(f'init={result.path}')}{where}")
    if (row := result.row) is not None:
        seconds = f"{row.hours * 3600:.0f} s of training and evaluation"
        known = " that it was trained on" if result.recipe.fold == "labeled" else ""
        accuracy = f"top-1 {100 * row.top1_ema:.2f} % of {row.n_test} images{known}"
        lines.insert(0, f"{row.name}, seed {row.seed}: {accuracy} ({seconds})")
    return "\n".join(lines)


def load_line(out: Path) -> str:
    """The line of Python that loads a run's model."""
    return f'model = muscle_zoo.create_model("local-dir:{(out / "export").as_posix()}", pretrained=True)'


def quickstart_table(figures: dict[str, float], out: Path) -> str:
    """The quickstart's result as a person reads it."""
    control, muscle, gain = (100 * figures[key] for key in ("control_top1", "muscle_top1", "gain"))
    return "\n".join(
        [
            "",
            f"top-1 on {figures['n_test']} test images, 10 labels (one lucky draw of them; the README has ten)",
            f"  supervised control   {control:5.1f} %",
            f"  MUSCLE               {muscle:5.1f} %",
            f"  gain                 {gain:+5.1f} points",
            "",
            f"run folder: {out}   (training and evaluation took {figures['seconds']} s)",
            f"curves:     {out / 'muscle' / 'curves.png'}",
            f"load it:    {load_line(out / 'muscle')}",
        ]
    )
