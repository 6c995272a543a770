"""`train`: a recipe becomes a run folder; without a recipe, the quickstart."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from ..engine.processes import is_main_process
from ..errors import ExitCode, InputError
from ..recipes import get_recipe
from .arguments import add_run_arguments, parse_overrides, run_options

if TYPE_CHECKING:
    from ..sessions.train import RunResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("name", nargs="?", help="recipe, ARCH.METHOD_DATASET_LABELS; without it the quickstart runs")
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


def run(args: argparse.Namespace) -> int:
    """Trains a recipe, or the quickstart."""
    try:
        return _quickstart(args) if args.name is None or "=" in args.name else _train(args)
    finally:
        # A process that ends while its group is open may abort, and its launcher would call that a failure.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _train(args: argparse.Namespace) -> int:
    from ..sessions.train import train_run

    recipe = get_recipe(args.name, parse_overrides(args.overrides))
    out = args.out or Path("runs") / recipe.name / f"seed{recipe.seed}"
    if recipe.init and is_main_process():
        print(f"starts from the weights of {recipe.init}", flush=True)
    if recipe.teacher and is_main_process():
        print(f"learns from {recipe.teacher}", flush=True)
    process_age = time.time() - psutil.Process().create_time()  # the time limit counts the imports too
    result = train_run(recipe, out, run_options(args), began=time.monotonic() - process_age)
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
    if result.row is None and (measured := result.neighbors):
        knn = f"nearest neighbors among {measured['references']} labeled images"
        knn += f": {100 * measured['top1']:.2f} % of {measured['n']} images"
        lines.insert(0, f"{result.recipe.name}, seed {result.recipe.seed}, no classifier; {knn}")
        lines.append(f"go on:      train NAME init={result.path}")
    if (row := result.row) is not None:
        seconds = f"{row.hours * 3600:.0f} s of training and evaluation"
        accuracy = f"top-1 {100 * row.top1_ema:.2f} % of {row.n_test} images"
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
            f"top-1 on {figures['n_test']} test images, 10 labels (one draw of them; the README has five)",
            f"  supervised control   {control:5.1f} %",
            f"  MUSCLE               {muscle:5.1f} %",
            f"  gain                 {gain:+5.1f} points",
            "",
            f"run folder: {out}   (training and evaluation took {figures['seconds']} s)",
            f"curves:     {out / 'muscle' / 'curves.png'}",
            f"load it:    {load_line(out / 'muscle')}",
        ]
    )
