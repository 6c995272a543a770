"""`train`: a recipe becomes a run folder."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from ..checkpoints.weights import from_folder
from ..engine.run_folder import RunFolder
from ..errors import InputError, TrainingError, WeightsError
from ..recipes import Recipe, get_recipe
from .arguments import add_run_arguments, parse_overrides, source_of
from .terminal import STOPPED, is_main

if TYPE_CHECKING:
    from ..engine.options import RunOptions


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
    """Trains a recipe, or the quickstart; several processes part before they end."""
    try:
        return _run(args)
    finally:
        if (
            torch.distributed.is_available() and torch.distributed.is_initialized()
        ):  # a process that ends with its group open may abort
            torch.distributed.destroy_process_group()


def _run(args: argparse.Namespace) -> int:
    if args.name is None or "=" in args.name:
        from .quickstart import run as quickstart

        if args.name is not None:
            raise InputError(f"override {args.name!r} needs a recipe before it: train NAME key=value ...")
        return quickstart(args)
    recipe = get_recipe(args.name, parse_overrides(args.overrides))
    out = args.out or Path("runs") / recipe.name / f"seed{recipe.seed}"
    if recipe.init and is_main():
        print(f"starts from the weights of {recipe.init}", flush=True)
    process_age = time.time() - psutil.Process().create_time()  # the imports take their time too
    finished = train(recipe, out, args, began=time.monotonic() - process_age)
    if not finished and is_main():
        print(f"stopped, the state is saved in {out}; run the same command again to continue")
    elif is_main():
        print(summary(out))
    return 0 if finished else STOPPED


def train(
    recipe: Recipe, out: Path, args: argparse.Namespace, progress: bool = True, began: float | None = None
) -> bool:
    """Trains and exports a recipe in a folder, unless that is done already.

    Args:
        recipe: The recipe.
        out: The run folder.
        args: How, as :func:`add_arguments` declares it.
        progress: Show it.
        began: When the time limit began to count, as time.monotonic() tells it; now, by default.

    Returns:
        False when the run was stopped before its end.

    Raises:
        InputError: The input is wrong; nothing was written.
        TrainingError: Training could not go on; status.json says why.
    """
    from ..engine.build import own_folder  # slow to import
    from ..engine.options import RunOptions, process_state

    began = time.monotonic() if began is None else began
    options = RunOptions(
        mixed_precision=args.mixed_precision,
        tracker=args.tracker,
        time_limit=args.time_limit,
        save_every=args.save_every,
        cpu=args.cpu,
        fresh=args.fresh,
        progress=progress,
        data=source_of(args),
        compile=args.compile,
    )
    folder = RunFolder(out)
    if args.fresh:
        folder.check_kind()
    else:
        folder.check(recipe)
        status = folder.read_status()
        finished = status.get("status") == "finished" and _is_whole(folder.export_dir)
        here = own_folder(recipe, options.data)
        if finished and status.get("data", "") != here:
            raise InputError(
                f"--out {out} is a finished run on {status.get('data') or 'other data'}, not on {here or 'these'}; "
                "give another --out, or --fresh"
            )
        process_state(args.cpu).wait_for_everyone()  # every process has looked before the first one writes
        if finished:
            return True
    with folder.locked() if is_main() else nullcontext():
        return _train(recipe, folder, options, began)


def _train(recipe: Recipe, folder: RunFolder, options: RunOptions, began: float) -> bool:
    from ..engine.build import prepare_data
    from ..engine.fit import fit
    from ..engine.options import process_state
    from ..publishing.export import export_run

    try:
        data = prepare_data(recipe, options.data)
        if options.time_limit is not None:  # it counts from the start of the command
            left = options.time_limit - (time.monotonic() - began)
            options = replace(options, time_limit=max(left, 1e-6))
        trained = fit(recipe, folder, options, data)
        if trained.finished and is_main():
            export_run(recipe, folder, trained, data)
        process_state().wait_for_everyone()  # a process that ends early would have its launcher end the others
    except (MemoryError, RuntimeError, OSError, KeyboardInterrupt) as error:
        status = folder.read_status()
        if is_main() and status.get("status") == "running":  # this attempt's: an older run's is left as it is
            with suppress(OSError):  # the disk may be full
                folder.write_status("failed", status["step"], recipe.steps, why=f"{type(error).__name__}: {error}")
        first_line = str(error).partition("\n")[0]
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in first_line:
            raise TrainingError(
                f"out of memory ({first_line}); lower batch_size or mu, or give accumulate=2"
            ) from error
        raise
    return trained.finished


def _is_whole(export: Path) -> bool:
    try:
        from_folder(export)
    except WeightsError:
        return False  # it is made again from the state
    return True


def summary(out: Path) -> str:
    """What a finished run has to say: its accuracy, where it is, and how to load it."""
    row = RunFolder(out).read_status()["row"]
    return (
        f"{row['name']}, seed {row['seed']}: top-1 {100 * row['top1_ema']:.2f} % of {row['n_test']} images "
        f"({row['hours'] * 3600:.0f} s of training and evaluation)\n"
        f"run folder: {out}\n"
        f"load it:    {load_line(out)}"
    )


def load_line(out: Path) -> str:
    """The line of Python that loads a run's model."""
    return f'model = muscle_zoo.create_model("local-dir:{(out / "export").as_posix()}", pretrained=True)'
