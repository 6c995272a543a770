"""Kills a training run again and again, and looks at what it lost: ``python -m tests.crash --rounds 50``.

Every round starts the same command, kills the process with SIGKILL at a random moment or inside the writing of the
state, and checks that the newest whole state is at most one save interval behind. A run that reaches its end must have
the weights of one that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muscle_zoo import get_recipe
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.state import load_state
from muscle_zoo.sessions.train import train_run

NAME = "cnn4.muscle_fixmatch_digits_10"
SAVE_EVERY = 15
FEW = {"batch_size": 16, "mu": 2}
STEPS = 399  # few enough for the log to have every step; the suite takes fewer
_QUIET: dict[str, Any] = {
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "env": {**os.environ, "OMP_NUM_THREADS": "1"},
}


@dataclass
class Report:
    """What the rounds showed: the steps each kill cost, how many were inside a write, and what was compared."""

    lost: list[int] = field(default_factory=list)
    inside_a_write: int = 0
    damaged: int = 0
    runs_compared: int = 0


def command(out: Path, seed: int, steps: int) -> list[str]:
    words = ["train", NAME, f"seed={seed}", f"steps={steps}", f"eval_every={steps}", "--cpu"]
    words += [f"{key}={value}" for key, value in FEW.items()]
    return [sys.executable, "-m", "muscle_zoo", *words, "--save-every", str(SAVE_EVERY), "--out", str(out)]


def logged(folder: RunFolder) -> int:
    """The last step that the log knows."""
    rows = folder.read_log()
    return rows[-1]["step"] if rows else 0


def saved(folder: RunFolder, report: Report) -> int:
    """The step of the newest whole state."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_state(folder.state_dir)
    report.damaged += len(caught)
    return loaded[1]["step"] if loaded else 0


def writing(folder: RunFolder) -> bool:
    return folder.state_dir.is_dir() and any(path.name.startswith(".step-") for path in folder.state_dir.iterdir())


def crash(rounds: int, inside: int, folder: Path, seed: int = 0, steps: int = STEPS) -> Report:
    """Kills as many times as there are rounds, ``inside`` of them in a write; a run that gets to its end is compared.

    Raises:
        AssertionError: A kill cost more than one save interval, the command did not go on by itself, or a run that was
            killed ended with other weights than one that was not.
    """
    rng = random.Random(seed)
    report = Report()
    waits_for_a_write = [True] * inside + [False] * (rounds - inside)
    rng.shuffle(waits_for_a_write)
    run_seed = 0
    while waits_for_a_write:
        run = RunFolder(folder / f"run{run_seed}")
        wait = waits_for_a_write[-1]
        start = logged(run)
        child = subprocess.Popen(command(run.path, run_seed, steps), **_QUIET)
        if wait or rng.random() < 0.8:  # the others are killed while they start
            while logged(run) <= start and child.poll() is None:
                time.sleep(0.01)
        if wait:
            while not writing(run) and child.poll() is None:
                pass
        else:
            time.sleep(rng.uniform(0.0, 1.0))
        child.kill()
        if child.wait() == 0:  # it was quicker
            _compare(run, folder, run_seed, report, steps)
            run_seed += 1
            continue
        waits_for_a_write.pop()
        report.inside_a_write += writing(run)
        report.lost.append(max(logged(run) - saved(run, report), 0))
        assert report.lost[-1] <= SAVE_EVERY, f"{report.lost[-1]} steps lost"
    run = RunFolder(folder / f"run{run_seed}")
    subprocess.run(command(run.path, run_seed, steps), **_QUIET, check=True)
    _compare(run, folder, run_seed, report, steps)
    return report


def _compare(run: RunFolder, folder: Path, seed: int, report: Report, steps: int) -> None:
    assert run.read_status()["status"] == "finished"
    undisturbed = folder / f"undisturbed{seed}"
    recipe = get_recipe(NAME, {"seed": seed, "steps": steps, "eval_every": steps, **FEW})
    train_run(recipe, undisturbed, RunOptions(cpu=True, save_every=SAVE_EVERY, progress=False))
    weights = "export/model.safetensors"
    assert (run.path / weights).read_bytes() == (undisturbed / weights).read_bytes()
    report.runs_compared += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--inside", type=int, default=15, help="rounds that wait for the writing of a state")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = crash(args.rounds, args.inside, Path(folder), args.seed)
    print(json.dumps({**vars(report), "kills": len(report.lost), "most_lost": max(report.lost)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
