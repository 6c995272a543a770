"""The quickstart: what MUSCLE does with ten labels, in less than a minute."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..engine.run_folder import RunFolder
from ..errors import InputError
from ..files import read_json, write_json
from ..recipes import get_recipe
from .terminal import STOPPED, is_main
from .train import load_line, train

CONTROL, MUSCLE = "cnn4.supervised_digits_10", "cnn4.muscle_digits_10"


def run(args: argparse.Namespace) -> int:
    """Trains the supervised control and MUSCLE on the same ten labels, and compares them."""
    out: Path = args.out or Path("runs") / "quickstart"
    summary_file = out / "summary.json"
    if out.is_file() or (out.is_dir() and not (out / "supervised").is_dir() and any(out.iterdir())):
        raise InputError(f"--out {out} exists and holds no quickstart; give another --out")
    args = argparse.Namespace(**vars(args))
    if args.fresh:
        start_over(out, args)
        args.fresh = False  # the two runs inside are new with their folder
    recipes = {"supervised": get_recipe(CONTROL), "muscle": get_recipe(MUSCLE)}
    for folder, recipe in recipes.items():
        RunFolder(out / folder).check(recipe)  # figures of an older recipe are not shown as this one's
    if not summary_file.is_file():
        if is_main():
            print("Ten labeled digits, one of each, and 1,437 unlabeled ones: with and without MUSCLE.", flush=True)
        began = time.monotonic()
        limit = args.time_limit
        for folder, recipe in recipes.items():
            if limit is not None:
                args.time_limit = max(limit - (time.monotonic() - began), 0.001)
            if not train(recipe, out / folder, args):
                if is_main():
                    print(f"stopped, the state is saved in {out}; run the same command again to continue")
                return STOPPED
        if not is_main():
            return 0
        control, muscle = (RunFolder(out / f).read_status()["row"] for f in ("supervised", "muscle"))
        gain = round(muscle["top1_ema"] - control["top1_ema"], 6)
        summary = {
            "control_top1": control["top1_ema"],
            "muscle_top1": muscle["top1_ema"],
            "gain": gain,
            # what an earlier, stopped call did counts too
            "seconds": round(max(time.monotonic() - began, 3600 * (control["hours"] + muscle["hours"])), 1),
            "n_test": muscle["n_test"],
            "split_sha256": muscle["split_sha256"],
        }
        write_json(summary_file, summary)
    if is_main():
        print(table(read_json(summary_file), out))
    return 0


def start_over(out: Path, args: argparse.Namespace) -> None:
    """Renames the old folder, once for all processes, after looking at the options."""
    from ..engine.options import RunOptions, process_state

    RunOptions(args.mixed_precision, args.tracker, args.time_limit, args.save_every, args.cpu)
    if is_main() and (old := RunFolder(out).set_aside()) is not None:
        print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
    process_state(args.cpu).wait_for_everyone()


def table(summary: dict[str, float], out: Path) -> str:
    """The result as a person reads it."""
    control, muscle, gain = (100 * summary[key] for key in ("control_top1", "muscle_top1", "gain"))
    return "\n".join(
        [
            "",
            f"top-1 on {summary['n_test']} test images, 10 labels (one draw of them; the README has five)",
            f"  supervised control   {control:5.1f} %",
            f"  MUSCLE               {muscle:5.1f} %",
            f"  gain                 {gain:+5.1f} points",
            "",
            f"run folder: {out}   (training and evaluation took {summary['seconds']} s)",
            f"curves:     {out / 'muscle' / 'curves.png'}",
            f"load it:    {load_line(out / 'muscle')}",
        ]
    )
