"""Several processes, started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from muscle_zoo import get_recipe
from muscle_zoo.engine.run_folder import RunFolder
from tests.test_engine import run

# On a CPU accelerate starts one process; torchrun starts several, which Accelerate then joins.
LAUNCHERS = {
    1: ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    2: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", LAUNCHERS)
def test_launchers(processes: int, tmp_path: Path) -> None:
    words = ["cnn4.muscle_fixmatch_digits_10", "steps=6", "eval_every=3", "batch_size=8", "mu=2"]
    words += ["fixmatch.threshold=0.2", "seed=1"]  # of which each half of the first step has other right guesses
    train = ["-m", "muscle_zoo", "train", *words, "--cpu", "--out", "run"]
    launch = [sys.executable, *LAUNCHERS[processes], *train]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "run" / "status.json").read_text())["row"]
    assert row["processes"] == processes
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    masks = [entry["mask"] for entry in log if "mask" in entry]
    assert len(masks) == 6 and 0 < masks[-1] < 1
    folder, _ = run(get_recipe(words[0], dict(word.split("=") for word in words[1:])), tmp_path / "alone")
    for term in (
        "loss",
        "cross_entropy",
        "mi",
        "pseudo_label_accuracy",
    ):  # the first step sees the same images with the same views and weights
        assert log[0][term] == pytest.approx(folder.read_log()[0][term], rel=1e-3, abs=2e-6), term
    # The last evaluation was of all images, not of one process's: the export is evaluated by one process alone.
    assert log[-1]["top1_ema"] == pytest.approx(row["top1_ema"], abs=1.5 / row["n_test"]) and row["n_test"] == 360
    # and one update later: the gradient, through BatchNorm and the joint of the global batch, was the same
    assert log[1]["loss"] == pytest.approx(folder.read_log()[1]["loss"], rel=5e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    words = ["-m", "muscle_zoo", "train", "cnn4.muscle_fixmatch_digits_10", "--mixed-precision", "bf16", "--out", "run"]
    done = subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = RunFolder(tmp_path / "run").read_status()["row"]
    assert row["processes"] == 2 and row["top1_ema"] > 0.5
