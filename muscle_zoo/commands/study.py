"""`study`: many paired runs, one command that can be stopped and continued."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..engine.run_folder import RunFolder
from ..engine.stop import StopSignal
from ..errors import InputError, MuscleZooError
from ..recipes import Recipe
from ..recipes.names import parse_name
from ..results.figures import plot_study
from ..results.ledger import Row, read_ledger, write_ledger
from ..results.study import plan
from ..results.tables import study_table
from .arguments import add_run_arguments, parse_overrides
from .terminal import STOPPED
from .train import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `study`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change every recipe: steps=1000 ...")
    parser.add_argument("--methods", nargs="+", required=True, metavar="X", help="base methods; each also with MUSCLE")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--labels", nargs="+", required=True, metavar="N", help="label budgets")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds, from 0 on (3)")
    parser.add_argument("--bias", nargs="+", default=["none"], metavar="B", help="none imbalance:5 ...")
    parser.add_argument("--arch", default="cnn4", help="backbone (cnn4)")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="runs that are rows of this ledger are taken from it, not run again"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, on CPUs (1)")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs what is not done yet; then writes results.csv, table.md and a figure for each data set and bias."""
    if args.seeds < 1 or args.jobs < 1:
        raise InputError(f"--seeds {args.seeds} --jobs {args.jobs}: give 1 or more")
    overrides = parse_overrides(_overrides(args))
    if "seed" in overrides or "bias" in overrides:
        raise InputError("override seed or bias: say --seeds N and --bias B ...")
    recipes = plan(args.arch, args.methods, args.datasets, args.labels, range(args.seeds), args.bias, overrides)
    out: Path = args.out or Path("runs") / "study"
    folders = [out / "runs" / _folder(recipe) for recipe in recipes]
    for recipe, folder in zip(recipes, folders, strict=True):
        RunFolder(folder).check(recipe)
    known = _known(args)
    todo = [job for job in zip(recipes, folders, strict=True) if _row(*job, known) is None]
    print(f"{len(recipes)} runs, {len(recipes) - len(todo)} of them done; results in {out}", flush=True)
    whole, failed = _work(todo, args) if todo else (True, [])
    rows = [row for job in zip(recipes, folders, strict=True) if (row := _row(*job, known)) is not None]
    if rows:
        text = write(rows, out, overrides)
        print(f"\n{text}\n\n{out / 'results.csv'}, {out / 'table.md'} and the figures beside them")
    for text in failed:
        print(f"failed: {text}", file=sys.stderr)
    if not whole:
        print(f"stopped with {len(rows)} of {len(recipes)} runs done; run the same command again to continue")
        return STOPPED
    return 1 if failed else 0


def write(rows: Sequence[Row], out: Path, overrides: Mapping[str, str]) -> str:
    """Writes a study's ledger, table and figures into a folder; returns the table, under what all runs changed."""
    out.mkdir(parents=True, exist_ok=True)
    write_ledger(out / "results.csv", rows)
    changed = " ".join(f"`{key}={value}`" for key, value in overrides.items())
    text = f"Every run with {changed}.\n\n{study_table(rows)}" if changed else study_table(rows)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    for dataset, bias in sorted({(_dataset(row), row.bias) for row in rows}):
        part = [row for row in rows if (_dataset(row), row.bias) == (dataset, bias)]
        name = dataset if bias == "none" else f"{dataset}-{bias}"
        plot_study(part, out / f"{name.replace(':', '_')}.png")
    return text


def _dataset(row: Row) -> str:
    return parse_name(row.name)["dataset"]


def _folder(recipe: Recipe) -> str:
    bias = "" if recipe.bias == "none" else f"-{recipe.bias.replace(':', '_')}"
    return f"{recipe.name.replace(':', '_')}{bias}/seed{recipe.seed}"


def _overrides(args: argparse.Namespace) -> list[str]:
    """The key=value words, those that stand after --labels and the like included."""
    words = list(args.overrides)
    for option in ("methods", "datasets", "labels", "bias"):
        given = getattr(args, option)
        words += [word for word in given if "=" in word]
        setattr(args, option, [word for word in given if "=" not in word])
        if not getattr(args, option):
            raise InputError(f"--{option} {' '.join(given)}: give at least one before the key=value words")
    return words


def _known(args: argparse.Namespace) -> dict[tuple[str, str, int], Row]:
    """The rows of --ledger that were run in this precision, by key."""
    if args.ledger is None:
        return {}
    if not args.ledger.is_file():
        raise InputError(f"--ledger {args.ledger} is not a file; give a results.csv")
    dtype = {"no": "float32"}.get(args.mixed_precision or "no", args.mixed_precision)
    return {row.key: row for row in read_ledger(args.ledger) if row.dtype == dtype}


def _row(recipe: Recipe, folder: Path, known: Mapping[tuple[str, str, int], Row]) -> Row | None:
    if (row := known.get((recipe.name, recipe.sha256, recipe.seed))) is not None:
        return row
    status = RunFolder(folder).read_status()
    row = status.get("row", {})
    return Row(**row) if status.get("status") == "finished" and set(row) == {f.name for f in fields(Row)} else None


def _work(todo: Sequence[tuple[Recipe, Path]], args: argparse.Namespace) -> tuple[bool, list[str]]:
    """Runs the jobs in processes of their own, each of which imports once.

    Returns:
        False when it was stopped before their end; and what went wrong.
    """
    context = multiprocessing.get_context("spawn")
    results, jobs = context.Queue(), context.Queue()
    began = time.monotonic()
    workers = [context.Process(target=_work_through, args=(jobs, args, results)) for _ in range(args.jobs)]
    for job in (*todo, *(None for _ in workers)):
        jobs.put(job)
    jobs.cancel_join_thread()  # what is left of them when the study is stopped keeps nobody waiting
    ended, done, whole, failed = 0, 0, True, []
    with StopSignal(None) as stop, _ending(workers):
        for worker in workers:
            worker.start()
        told = False
        while ended < len(workers):
            if stop.requested and not told:
                told = True
                for worker in workers:
                    worker.terminate()
            try:
                recipe, result = results.get(timeout=1.0)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    return False, failed if told else [*failed, "a worker process died without an error message"]
                continue
            if recipe is None:
                ended += 1
            elif result is False:
                whole = False
            else:
                done += 1
                failed += [result] if isinstance(result, str) else []
                left = (time.monotonic() - began) / done * (len(todo) - done)
                shown = f"{recipe.name} bias={recipe.bias} seed={recipe.seed}"
                print(f"{done}/{len(todo)} {shown}; about {_time(left)} left", flush=True)
    for worker in workers:
        worker.join()
    return whole, failed


@contextmanager
def _ending(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Leaves no process behind when an error, or a second Ctrl-C, ends the study."""
    try:
        yield
    except BaseException:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
        raise


def _work_through(jobs: Any, args: argparse.Namespace, results: Any) -> None:
    """What a worker does: the next job, until there is none or it is told to stop."""
    if hasattr(os, "setsid"):  # a terminal's Ctrl-C is the parent's: it tells each worker, once
        os.setsid()
    deadline = None if args.time_limit is None else time.monotonic() + args.time_limit
    with StopSignal(None) as stop:  # between two runs: a process that dies while it tells keeps the others waiting
        while (job := jobs.get()) is not None:
            recipe, folder = job
            here = argparse.Namespace(**vars(args), fresh=False)
            if deadline is not None:
                here.time_limit = max(deadline - time.monotonic(), 1e-6)
            try:
                result: bool | str = False if stop.requested else train(recipe, folder, here, progress=False)
            except MuscleZooError as error:
                result = f"{folder}: {error}"
            results.put((recipe, result))
            if result is False:
                break
        results.put((None, None))
        results.close()
        results.join_thread()


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 0):.0f} min"
