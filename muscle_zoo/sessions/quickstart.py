"""The quickstart: what MUSCLE does with ten labels, in less than a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.collectives import on_main_process
from ..engine.options import RunOptions, process_state
from ..engine.processes import is_main_process
from ..engine.run_folder import RunFolder
from ..errors import InputError
from ..files import read_json, write_json
from ..recipes import Recipe, get_recipe
from ..results.ledger import Row
from .train import train_run

RECIPES = {"supervised": "cnn4.supervised_digits_10", "muscle": "cnn4.muscle_digits_10"}


def quickstart(out: Path, options: RunOptions) -> dict[str, Any] | None:
    """Trains the supervised control and MUSCLE on the same ten labels, and compares them.

    Args:
        out: The folder of both runs and of summary.json; goes on with what is there.
        options: How; the time limit is that of both together.

    Returns:
        summary.json: ``control_top1``, ``muscle_top1`` and ``gain`` (0 to 1), ``seconds``, ``n_test``,
        ``split_sha256``; None where it was stopped, with the state saved.

    Raises:
        InputError: The folder holds something else, or runs of older recipes.
    """
    process_state(options.cpu)
    recipes = {folder: get_recipe(name) for folder, name in RECIPES.items()}
    if (summary := on_main_process(lambda: _look(out, recipes, options))) is not None:
        return summary
    options = replace(options, fresh=False)  # the old folder is renamed, so that the two runs inside are new with it
    if is_main_process():
        print("Ten labeled digits, one of each, and 1,437 unlabeled ones: with and without MUSCLE.", flush=True)
    began, rows = time.monotonic(), {}
    for folder, recipe in recipes.items():
        left = options.time_limit and max(options.time_limit - (time.monotonic() - began), 0.001)
        result = train_run(recipe, out / folder, replace(options, time_limit=left))
        if not result.finished or result.row is None:
            return None
        rows[folder] = result.row
    summary = _compare(rows["supervised"], rows["muscle"], time.monotonic() - began)
    if is_main_process():
        write_json(out / "summary.json", summary)
    return summary


def _compare(control: Row, muscle: Row, seconds: float) -> dict[str, Any]:
    trained = 3600 * (control.hours + muscle.hours)  # what an earlier, stopped call did counts too
    return {
        "control_top1": control.top1_ema,
        "muscle_top1": muscle.top1_ema,
        "gain": round(muscle.top1_ema - control.top1_ema, 6),
        "seconds": round(max(seconds, trained), 1),
        "n_test": muscle.n_test,
        "split_sha256": muscle.split_sha256,
    }


def _look(out: Path, recipes: Mapping[str, Recipe], options: RunOptions) -> dict[str, Any] | None:
    """Makes sure that the folder is a quickstart's, or a new one; the summary of one that is finished."""
    if out.is_file() or (out.is_dir() and not (out / "supervised").is_dir() and any(out.iterdir())):
        raise InputError(f"--out {out} exists and holds no quickstart; give another --out")
    if options.fresh and (old := RunFolder(out).set_aside()) is not None:
        print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
    for folder, recipe in recipes.items():
        RunFolder(out / folder).check(recipe)  # figures of an older recipe are not shown as this one's
    return read_json(out / "summary.json") if (out / "summary.json").is_file() else None
