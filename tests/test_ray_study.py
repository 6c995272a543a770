"""A study on a Ray cluster equals the plain one, and is stopped and continued as it is; it needs the extra `ray`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muscle_zoo.engine.folder_lock import FolderLock
from muscle_zoo.results.ledger import Row, read_ledger
from muscle_zoo.sessions import ray_study
from muscle_zoo.sessions import study as study_session
from tests.conftest import run
from tests.test_clusters import Here

Capture = pytest.CaptureFixture[str]
STUDY = ["study", "--methods", "supervised", "--datasets", "digits", "--labels", "10", "--seeds", "2", "--cpu"]
STEPS = ["steps=150", "eval_every=5", "batch_size=8", "mu=1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ray", "auto", "--jobs", "2"], "leave out --jobs, --active and --shard"),
        (["--ray", "auto", "--shard", "1/2"], "leave out --jobs, --active and --shard"),
        (["--ray", "auto", "--active", "random"], "leave out --jobs, --active and --shard"),
        (["--gpus-per-run", "0.5"], "--gpus-per-run 0.5 is for a Ray cluster"),
        (["--ray", "auto", "--gpus-per-run", "1.5"], "--gpus-per-run 1.5 is out of range; give 0 to 1"),
        (["--ray", "head"], "--ray head is no address; give HOST:PORT"),
        (["--ray", "ray://head:10001"], "--ray ray://head:10001 is no address"),
    ],
)
def test_what_does_not_go_with_ray_is_refused(words: list[str], says: str, capsys: Capture, tmp_path: Path) -> None:
    code, _, err = run([*STUDY, *words, "--out", str(tmp_path / "study")], capsys)
    assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "study").exists()


def test_without_the_package_it_says_what_to_install(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run([*STUDY, "--ray", "auto", "--out", str(tmp_path / "study")], capsys)
    assert code == 2 and err == 'error: --ray needs a package: python -m pip install "muscle_zoo[ray]"\n'
    assert not (tmp_path / "study").exists()


def test_a_folder_is_shared_if_its_mark_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    out = Path("new/study")
    with ray_study._marked(out) as place:
        monkeypatch.chdir("/")
        assert place.enter() == "" and Path.cwd() == tmp_path
        for other in (
            dataclasses.replace(place, directory=tmp_path / "elsewhere"),
            dataclasses.replace(place, mark=tmp_path / "there" / place.mark.name),
            dataclasses.replace(place, content="of another study"),  # the same path, on a disk of its own
        ):
            assert f"does not see {other.directory} and {other.mark.parent}" in other.enter()
    assert not Path("new").exists()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster with two CPUs; one connection is held, for each has workers that import torch anew."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside a busy process they would hardly begin
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ray_study._connected(ray, ray_study.Cluster(made.address)):
            yield made.address
    finally:
        made.shutdown()
    assert signal.getsignal(signal.SIGTERM) == before and not ray.is_initialized()


def without_place(rows: list[Row]) -> list[Row]:
    return [dataclasses.replace(row, hours=0.0, device="") for row in rows]


def interrupt_once_trained(out: Path) -> None:
    """Sends Ctrl-C to this process as soon as two of the runs have taken steps."""

    def wait() -> None:
        while sum(file.stat().st_size > 0 for file in out.glob("runs/*/*/log.jsonl")) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_a_study_on_ray_equals_the_plain_one(
    connected: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muscle_zoo.commands.study.plot_study", lambda *_: None)
    monkeypatch.setattr(ray_study, "attempt", None)  # nothing is trained in this process
    monkeypatch.chdir(tmp_path)
    out = Path("ray")
    words = [*STUDY, *STEPS, "--ray", connected, "--out", str(out)]
    code, _, err = run([*words, "--gpus-per-run", "0.5"], capsys)
    assert code == 2 and "--gpus-per-run 0.5 and --cpu contradict each other" in err and not out.exists()

    interrupt_once_trained(out)
    code, text, err = run(words, capsys)
    assert code == 75 and "run the same command again" in text, (code, text, err)
    states = [json.loads(file.read_text()) for file in out.glob("runs/*/*/status.json")]
    stopped = {state["step"] for state in states if state["status"] == "stopped"}
    assert stopped and min(stopped) > 0

    busy = FolderLock(out / "runs" / "cnn4.muscle_digits_10" / "seed1")
    busy.path.parent.mkdir(parents=True, exist_ok=True)
    assert busy.acquire()
    code, text, err = run(words, capsys)
    assert code == 1 and "failed: ray/runs/cnn4.muscle_digits_10/seed1: run folder" in err and "in use" in err
    assert len(read_ledger(out / "results.csv")) == 3
    busy.release()

    assert run(words, capsys)[0] == 0
    code, text, _ = run([*words[:-3], "127.0.0.1:1", *words[-2:]], capsys)  # all is done: no cluster is asked
    assert code == 0 and "4 runs, 4 of them done" in text
    monkeypatch.setattr(study_session, "_Pool", Here)
    assert run([*STUDY, *STEPS, "--out", "plain"], capsys)[0] == 0
    rows = read_ledger(out / "results.csv")
    assert without_place(rows) == without_place(read_ledger(Path("plain") / "results.csv")) and len(rows) == 4
    assert not [file for file in out.iterdir() if file.name.startswith(".shared-")]


def test_a_cluster_that_is_not_there_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, _, err = run([*STUDY, "--ray", "127.0.0.1:1", "--out", str(tmp_path / "study")], capsys)
    assert code == 2 and "--ray 127.0.0.1:1: no cluster can be reached" in err and err.count("\n") == 1
    assert not (tmp_path / "study").exists()
