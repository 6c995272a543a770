"""Several processes, started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from muscle_zoo import get_recipe
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.files import file_sha256
from tests.conftest import once
from tests.test_engine import run

# On a CPU accelerate starts one process; torchrun starts several, which Accelerate then joins.
TORCHRUN = ["-m", "torch.distributed.run"]
NODES = ["--nnodes", "2", "--nproc_per_node", "1"]
TWO = [*TORCHRUN, "--standalone", "--nproc_per_node", "2"]
LAUNCHERS = {1: ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"], 2: TWO}
WORDS = ["cnn4.muscle_fixmatch_digits_10", "steps=14", "eval_every=7", "batch_size=8", "mu=2", "fixmatch.threshold=0.2"]
WEIGHTS = "export/model.safetensors"
# torchrun keeps its store when it starts the processes anew, and one of them may read the address of a dead one there
# (pytorch issue 135712); a store of each attempt's own is the remedy.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

# The command, in a process that sends itself a signal once, before a step.
SIGNALED = """
import os, signal, sys
from pathlib import Path
from muscle_zoo.cli import main
from muscle_zoo.engine.trainer import Trainer

marker, rank, at, number, *words = sys.argv[1:]
step = Trainer.step

def signaled(self, now, *args, **more):
    if now == int(at) and os.environ["RANK"] == rank and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), int(number))
    return step(self, now, *args, **more)

Trainer.step = signaled
sys.exit(main(words))
"""


def train_words(*more: str) -> list[str]:
    return ["train", *WORDS, "--cpu", "--save-every", "4", "--out", "run", *more]


def launch(launcher: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def launch_beside(launchers: list[list[str]], folders: list[Path]) -> tuple[list[int], list[str]]:
    """Runs launchers beside each other, each in a folder of its own: exit codes, and what they wrote to stderr."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words, folder in zip(launchers, folders, strict=True):
            folder.mkdir(exist_ok=True)
            with folder.with_suffix(".err").open("wb") as errors:
                command = [sys.executable, *words]
                started.append(subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=errors))
        codes = [child.wait() for child in started]
    finally:
        for child in started:
            child.kill()
    return codes, [folder.with_suffix(".err").read_text() for folder in folders]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def nodes(ranks: tuple[int, int], *words: str) -> list[list[str]]:
    """The launchers of two machines whose ranks are settled."""
    place = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [[*TORCHRUN, *NODES, "--node_rank", str(rank), *place, *words, *train_words()] for rank in ranks]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two processes that nothing happened to."""

    def train(folder: Path) -> None:
        done = launch([*TWO, "-m", "muscle_zoo", *train_words()], folder)
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "undisturbed", train) / "run"


@pytest.mark.slow
@pytest.mark.parametrize("processes", LAUNCHERS)
def test_launchers(processes: int, tmp_path: Path) -> None:
    words = ["cnn4.muscle_fixmatch_digits_10", "steps=6", "eval_every=3", "batch_size=8", "mu=2"]
    words += ["fixmatch.threshold=0.2", "seed=1"]  # of which each half of the first step has other right guesses
    done = launch([*LAUNCHERS[processes], "-m", "muscle_zoo", "train", *words, "--cpu", "--out", "run"], tmp_path)
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


@pytest.mark.slow
def test_two_machines_without_a_shared_disk(tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--local-addr", "127.0.0.1"]
    words = [*TORCHRUN, *NODES, *meet, "-m", "muscle_zoo", *train_words()]
    folders = [tmp_path / "a", tmp_path / "b"]
    codes, errors = launch_beside([words, words], folders)
    assert codes == [0, 0], "".join(errors)
    # The rendezvous numbers the machines; the second one writes nothing.
    main, other = sorted(folders, key=lambda folder: not (folder / "run").exists())
    assert list(other.iterdir()) == [] and [path.name for path in main.iterdir()] == ["run"]
    status = RunFolder(main / "run").read_status()
    assert status["status"] == "finished" and status["row"]["processes"] == 2
    alone, _ = run(get_recipe(WORDS[0], dict(word.split("=") for word in WORDS[1:])), tmp_path / "alone")
    log, theirs = (folder.read_log() for folder in (alone, RunFolder(main / "run")))
    for step in (0, 1):
        assert theirs[step]["loss"] == pytest.approx(log[step]["loss"], rel=2e-3)
    mine = load_file(next(alone.state_dir.glob("step-000000014/ema.safetensors")))
    for name, value in load_file(main / "run" / "state" / "step-000000014" / "ema.safetensors").items():
        assert (value.double() - mine[name].double()).norm() <= 0.02 * mine[name].double().norm() + 1e-4, name


@pytest.mark.slow
def test_two_machines_go_on_from_the_first_ones_disk(tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "stop.py").write_text(SIGNALED)
    stop = [str(tmp_path / "stop.py"), str(tmp_path / "stopped"), "1", "5", str(int(signal.SIGTERM))]
    folders = [tmp_path / "a", tmp_path / "b"]
    _, errors = launch_beside(nodes((0, 1), *stop), folders)
    status = RunFolder(tmp_path / "a" / "run").read_status()
    assert (status["status"], status["step"]) == ("stopped", 10), "".join(errors)
    assert list((tmp_path / "b").iterdir()) == []

    # A machine that has nothing does not start from scratch while another one has the state.
    codes, errors = launch_beside(nodes((1, 0), "-m", "muscle_zoo"), folders)
    assert all(codes)
    assert "error: --out run: process 1 has the state of step 10 on its disk, process 0 that of" in errors[1]
    assert list((tmp_path / "b").iterdir()) == []

    codes, errors = launch_beside(nodes((0, 1), "-m", "muscle_zoo"), folders)
    assert codes == [0, 0], "".join(errors)
    assert list((tmp_path / "b").iterdir()) == []
    assert [row["step"] for row in RunFolder(tmp_path / "a" / "run").read_log() if "loss" in row] == list(range(1, 15))
    assert file_sha256(tmp_path / "a" / "run" / WEIGHTS) == file_sha256(undisturbed / WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_restarted_and_loses_nothing(victim: int, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "kill.py").write_text(SIGNALED)
    kill = [str(tmp_path / "kill.py"), str(tmp_path / "killed"), str(victim), "9", str(int(signal.SIGKILL))]
    done = launch([*TWO, "--max-restarts", "1", *kill, *train_words()], tmp_path)
    assert done.returncode == 0 and (tmp_path / "killed").exists(), done.stderr
    folder = RunFolder(tmp_path / "run")
    assert folder.read_status()["status"] == "finished"
    assert [row["step"] for row in folder.read_log() if "loss" in row] == list(range(1, 15))
    assert file_sha256(folder.path / WEIGHTS) == file_sha256(undisturbed / WEIGHTS)


@pytest.mark.slow
def test_what_is_finished_or_wrong_on_the_first_machine_ends_both(tmp_path: Path, undisturbed: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    folders[0].mkdir()
    shutil.copytree(undisturbed, folders[0] / "run")
    codes, errors = launch_beside(nodes((0, 1), "-m", "muscle_zoo"), folders)
    assert codes == [0, 0], "".join(errors)
    assert list((tmp_path / "b").iterdir()) == []
    (folders[0] / "run" / "recipe.json").write_text("[]")
    codes, errors = launch_beside(nodes((0, 1), "-m", "muscle_zoo"), folders)
    assert all(codes) and errors[0].count("recipe.json holds a list") == 1
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    words = ["-m", "muscle_zoo", "train", "cnn4.muscle_fixmatch_digits_10", "--mixed-precision", "bf16", "--out", "run"]
    done = launch([*launcher, *words], tmp_path)
    assert done.returncode == 0, done.stderr
    row = RunFolder(tmp_path / "run").read_status()["row"]
    assert row["processes"] == 2 and row["top1_ema"] > 0.5
