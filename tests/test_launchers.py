"""Several processes, started as a user starts them."""

from __future__ import annotations

import json
import os
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
from tests.pictures import make_folder
from tests.test_engine import run
from tests.test_user_data import WORDS as STREAMED

Seen = dict[str, tuple[list[int], list[str]]]

# On a CPU accelerate starts one process; torchrun starts several, which Accelerate then joins.
TORCHRUN = ["-m", "torch.distributed.run"]
NODES = ["--nnodes", "2", "--nproc_per_node", "1"]
TWO = [*TORCHRUN, "--standalone", "--nproc_per_node", "2"]
ONE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
# A seed of which each half of the first step has other right guesses.
WORDS = ["cnn4.muscle_fixmatch_digits_10", "steps=14", "eval_every=7", "batch_size=8", "mu=2", "seed=1"]
WORDS += ["fixmatch.threshold=0.2"]
WEIGHTS = "export/model.safetensors"
# torchrun keeps its store when it starts the processes anew, and one of them may read the address of a dead one there
# (pytorch issue 135712); a store of each attempt's own is the remedy.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

# The command, in processes of which one kills itself before a step: in the first attempt the second, then the first.
KILLED = """
import os, signal, sys
from pathlib import Path
from muscle_zoo.cli import main
from muscle_zoo.engine.trainer import Trainer

attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
victim = {"0": ("1", 9), "1": ("0", 13)}.get(attempt)
step = Trainer.step

def killed(self, now, *args, **more):
    if (os.environ["RANK"], now) == victim:
        Path("attempt" + attempt).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, now, *args, **more)

Trainer.step = killed
sys.exit(main(sys.argv[1:]))
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests/two_machines.py ran all its commands, on machines with the disks a/ and b/."""

    def run_all(folder: Path) -> None:
        make_folder(folder / "pictures")
        place = f"127.0.0.1:{free_port()}"
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--local-addr", "127.0.0.1"]
        script = Path(__file__).with_name("two_machines.py")
        words = [*TORCHRUN, *NODES, *meet, str(script), json.dumps([str(folder), WORDS, STREAMED])]
        codes, errors = launch_beside([words, words], [folder / "a", folder / "b"])
        assert codes == [0, 0], "".join(errors)

    return once(tmp_path_factory, "machines", run_all)


@pytest.fixture(scope="module")
def disks(home: Path) -> list[Path]:
    """The first machine's disk and the second one's; the rendezvous numbered them."""
    return sorted((home / "a", home / "b"), key=lambda folder: not (folder / "whole").exists())


@pytest.fixture(scope="module")
def seen(home: Path) -> Seen:
    """Of each command the exit codes and what was written to stderr, the first machine's first."""
    both = [json.loads((home / f"{rank}.json").read_text()) for rank in (0, 1)]
    return {what: tuple(map(list, zip(*(one[what] for one in both), strict=True))) for what in both[0]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run by one process."""
    recipe = get_recipe(WORDS[0], dict(word.split("=") for word in WORDS[1:]))
    return run(recipe, tmp_path_factory.mktemp("alone") / "run")[0]


@pytest.mark.slow
def test_accelerates_launcher(tmp_path: Path, alone: RunFolder) -> None:
    done = launch([*ONE, "-m", "muscle_zoo", *train_words()], tmp_path)
    assert done.returncode == 0, done.stderr
    row = RunFolder(tmp_path / "run").read_status()["row"]
    assert row["processes"] == 1
    theirs, log = (
        [entry for entry in folder.read_log() if "loss" in entry] for folder in (RunFolder(tmp_path / "run"), alone)
    )
    assert len(theirs) == len(log) == 14
    for there, here in zip(theirs[:2], log[:2], strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_machines_without_a_shared_disk(disks: list[Path], seen: Seen, alone: RunFolder) -> None:
    main, other = disks
    assert seen["whole"][0] == [0, 0], seen
    assert list(other.iterdir()) == []  # whatever was run, the second one wrote nothing
    status = RunFolder(main / "whole").read_status()
    row = status["row"]
    assert status["status"] == "finished" and row["processes"] == 2
    log, theirs = alone.read_log(), RunFolder(main / "whole").read_log()
    masks = [entry["mask"] for entry in theirs if "mask" in entry]
    assert len(masks) == 14 and 0 < masks[0] < 1
    # the first step sees the same images with the same views and weights
    for term in ("loss", "cross_entropy", "mi", "pseudo_label_accuracy"):
        assert theirs[0][term] == pytest.approx(log[0][term], rel=1e-3, abs=2e-6), term
    # and one update later: the gradient, through BatchNorm and the joint of the global batch, was the same
    assert theirs[1]["loss"] == pytest.approx(log[1]["loss"], rel=2e-3)
    # The last evaluation was of all images, not of one process's: the export is evaluated by one process alone.
    assert theirs[-1]["top1_ema"] == pytest.approx(row["top1_ema"], abs=1.5 / row["n_test"]) and row["n_test"] == 360
    mine = load_file(next(alone.state_dir.glob("step-000000014/ema.safetensors")))
    for name, value in load_file(main / "whole" / "state" / "step-000000014" / "ema.safetensors").items():
        assert (value.double() - mine[name].double()).norm() <= 0.02 * mine[name].double().norm() + 1e-4, name


@pytest.mark.slow
def test_two_machines_go_on_from_the_first_ones_disk(disks: list[Path], seen: Seen) -> None:
    main, _ = disks
    status = json.loads((main / "stopped.json").read_text())
    assert (status["status"], status["step"], seen["stopped"][0]) == ("stopped", 10, [75, 75])
    # A machine that has nothing does not start from scratch while another one has the state.
    codes, errors = seen["exchanged"]
    assert all(codes)
    assert "error: run folder run: process 1 has the state of step 10 on its disk, process 0 that of" in errors[0]
    assert seen["run"][0] == [0, 0], seen
    assert [row["step"] for row in RunFolder(main / "run").read_log() if "loss" in row] == list(range(1, 15))
    assert file_sha256(main / "run" / WEIGHTS) == file_sha256(main / "whole" / WEIGHTS)


@pytest.mark.slow
def test_what_is_finished_or_wrong_on_the_first_machine_ends_both(disks: list[Path], seen: Seen) -> None:
    assert seen["again"][0] == [0, 0], seen
    codes, errors = seen["damaged"]
    assert codes == [2, 2] and errors[0].count("recipe.json holds a list") == 1 and not errors[1]
    codes, errors = seen["uneven"]
    assert codes == [2, 2] and not errors[1]
    assert errors[0].count("error: batch_size=7 is not divisible by 2 processes; give a multiple of 2") == 1
    assert not (disks[0] / "uneven").exists()


@pytest.mark.slow
def test_two_machines_train_on_streamed_pictures(disks: list[Path], seen: Seen) -> None:
    assert seen["streamed"][0] == [0, 0], seen
    assert RunFolder(disks[0] / "streamed").read_status()["row"]["processes"] == 2


@pytest.mark.slow
def test_a_killed_process_is_restarted_and_loses_nothing(tmp_path: Path, disks: list[Path]) -> None:
    (tmp_path / "kill.py").write_text(KILLED)
    done = launch([*TWO, "--max-restarts", "2", str(tmp_path / "kill.py"), *train_words()], tmp_path)
    assert done.returncode == 0 and all((tmp_path / f"attempt{n}").exists() for n in (0, 1)), done.stderr
    folder = RunFolder(tmp_path / "run")
    assert folder.read_status()["status"] == "finished"
    assert [row["step"] for row in folder.read_log() if "loss" in row] == list(range(1, 15))
    assert file_sha256(folder.path / WEIGHTS) == file_sha256(disks[0] / "whole" / WEIGHTS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    words = ["-m", "muscle_zoo", "train", "cnn4.muscle_fixmatch_digits_10", "--mixed-precision", "bf16", "--out", "run"]
    done = launch([*launcher, *words], tmp_path)
    assert done.returncode == 0, done.stderr
    row = RunFolder(tmp_path / "run").read_status()["row"]
    assert row["processes"] == 2 and row["top1_ema"] > 0.5
