"""A study in parts equals the whole; ledgers merge; the SLURM script puts a job back until it is done."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from muscle_zoo import InputError
from muscle_zoo.cli import main
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.stop import StopSignal
from muscle_zoo.recipes import Recipe
from muscle_zoo.results.ledger import Row, combine, read_ledger, write_ledger
from muscle_zoo.results.study import plan, shard
from muscle_zoo.sessions import study as study_session
from muscle_zoo.sessions.train import train_run
from tests.conftest import run
from tests.test_study import ROW, row

SCRIPT = Path(__file__).resolve().parent.parent / "hub_cards" / "studies" / "slurm.sh"
Capture = pytest.CaptureFixture[str]
STUDY = ["--methods", "supervised", "vat", "--datasets", "digits", "--labels", "10", "--seeds", "1"]
STEPS = ["steps=4", "eval_every=4", "batch_size=8", "mu=1"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_parts_have_every_run_once_and_pairs_together(count: int) -> None:
    recipes = plan("cnn4", ["supervised", "vat", "logistic"], ["digits"], ["10", "20"], [0, 1], ["none", "imbalance:5"])
    parts = [shard(recipes, index, count) for index in range(1, count + 1)]
    assert sorted(map(repr, recipes)) == sorted(repr(recipe) for part in parts for recipe in part)
    place = {(r.name, r.seed, r.bias): index for index, part in enumerate(parts) for r in part}
    for (name, seed, bias), index in place.items():
        if ".supervised" in name:
            assert place[name.replace(".supervised", ".muscle"), seed, bias] == index
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2 and parts == [shard(recipes, i, count) for i in range(1, count + 1)]
    for index in (0, count + 1):
        with pytest.raises(InputError, match=f"--shard {index}/{count}: give I/N"):
            shard(recipes, index, count)


def without_time(rows: Sequence[Row]) -> list[Row]:
    return [dataclasses.replace(one, hours=0.0) for one in rows]


class Here:
    """In the place of a study's worker processes, each of which would import torch."""

    def __init__(self, todo: Sequence[tuple[Recipe, Path]], options: RunOptions, jobs: int, part: str) -> None:
        self.todo, self.options = todo, options

    def run(self) -> study_session.StudyResult:
        for recipe, folder in self.todo:
            train_run(recipe, folder, self.options)
        return study_session.StudyResult()


def test_a_study_of_two_parts_equals_the_plain_one(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_session, "_Pool", Here)
    monkeypatch.setattr("muscle_zoo.commands.study.plot_study", lambda *_: None)

    def study(out: str, *more: str) -> None:
        assert run(["study", *STUDY, *STEPS, "--cpu", "--out", str(tmp_path / out), *more], capsys)[0] == 0

    study("plain")
    study("parts", "--shard", "1/2")
    study("parts", "--shard", "2/2")
    parts = sorted(map(str, (tmp_path / "parts").glob("results-*-of-2.csv")))
    merged = tmp_path / "all.csv"
    code, out, _ = run(["ledger", "merge", *parts, "--out", str(merged)], capsys)
    assert code == 0 and f"{merged}: 4 runs" in out
    plain = read_ledger(tmp_path / "plain" / "results.csv")
    assert without_time(read_ledger(merged)) == without_time(plain) and len(plain) == 4
    study("tables", "--ledger", str(merged))  # trains nothing: no run folder is made
    assert not (tmp_path / "tables" / "runs").exists()
    assert (tmp_path / "tables" / "table.md").read_text() == (tmp_path / "plain" / "table.md").read_text()


def test_ledgers_that_contradict_each_other_are_refused(tmp_path: Path, capsys: Capture) -> None:
    one, same, other = (tmp_path / f"{name}.csv" for name in ("one", "same", "other"))
    rows = [row("vat", 10, seed, 0.5) for seed in range(3)]
    write_ledger(one, rows[:2])
    write_ledger(same, [dataclasses.replace(rows[1], hours=9.0), rows[2]])
    assert combine({"a": rows[:2], "b": [dataclasses.replace(rows[1], hours=9.0), rows[2]]}) == rows
    write_ledger(other, [dataclasses.replace(rows[1], top1_ema=0.25)])
    before = one.read_bytes()
    code, _, err = run(["ledger", "merge", str(one), str(other)], capsys)
    assert code == 2 and one.read_bytes() == before
    assert f"cnn4.vat_digits_10, seed 1, recipe {ROW.recipe_sha256}: top1_ema=0.5 in {one}, 0.25 in {other}" in err
    assert run(["ledger", "merge", str(one), str(same)], capsys)[0] == 0 and read_ledger(one) == rows
    for name, own in (("first", rows[:2]), ("second", rows[1:])):  # folders of studies
        (tmp_path / name).mkdir()
        write_ledger(tmp_path / name / "results.csv", own)
    whole = tmp_path / "whole.csv"
    words = ["ledger", "merge", str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(whole)]
    assert run(words, capsys)[0] == 0 and read_ledger(whole) == rows
    for words, says in (
        ([str(one)], "give two ledgers or more"),
        ([str(one), str(tmp_path / "none.csv")], "none.csv is not a file"),
        ([str(one), str(same), "--out", str(other)], "exists; give it among the ledgers"),
    ):
        code, _, err = run(["ledger", "merge", *words], capsys)
        assert code == 2 and says in err


def test_sigusr1_stops_as_sigterm_does() -> None:
    with StopSignal(None) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested and stop.why == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


# Stand-ins: srun starts the command and notes its process, scancel signals it, scontrol notes what it is asked.
STAND_INS = {
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done\necho $$ >"$STATE/step"\nexec "$@"',
    "scancel": 'kill -"${1#--signal=}" "$(cat "$STATE/step")"',
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >>"$STATE/asked"',
}


class Cluster:
    """A folder of stand-ins for SLURM's commands."""

    def __init__(self, folder: Path, **commands: str) -> None:
        self.state, tools = folder / "state", folder / "bin"
        self.state.mkdir(parents=True)
        tools.mkdir()
        for name, body in {**STAND_INS, **commands}.items():
            (tools / name).write_text(f"#!/bin/bash\n{body}\n")
            (tools / name).chmod(0o755)
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "STATE": str(self.state)}
        self.env = {**os.environ, **job, "PATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        output = (self.state / "output").open("ab")
        return subprocess.Popen(["bash", str(SCRIPT), *words], env={**self.env, **env}, stdout=output, stderr=output)

    @property
    def asked(self) -> list[str]:
        file = self.state / "asked"
        return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True)])
def test_a_job_goes_back_if_and_only_if_it_was_stopped(tmp_path: Path, code: int, requeued: bool) -> None:
    cluster = Cluster(tmp_path, python=f'echo "$@"; exit {code}')
    assert cluster.start("train", "NAME", "seed=0").wait(20) == (0 if requeued else code)
    assert cluster.asked == (["requeue 7"] if requeued else [])
    assert (cluster.state / "output").read_text() == "-m muscle_zoo train NAME seed=0\n"


def test_an_array_of_a_study_is_its_parts_and_several_tasks_are_processes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, python='echo "$@ ${RANK:-}/${WORLD_SIZE:-} $MASTER_ADDR"')
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    assert cluster.start("study", "--labels", "4", **array).wait(20) == 0
    tasks = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "2"}
    assert cluster.start("train", "NAME", **tasks).wait(20) == 0
    shown = (cluster.state / "output").read_text().splitlines()
    assert shown == ["-m muscle_zoo study --labels 4 --shard 3/8 / localhost", "-m muscle_zoo train NAME 2/4 localhost"]


# What srun starts in the next test is forked from this process: importing torch four times would take half a minute.
FORKED = """while [ "$1" != muscle_zoo ]; do shift; done
echo "${*:2}" >"$STATE/words"
exit "$(cat "$STATE/code")"
"""


@pytest.mark.slow
def test_a_run_that_was_put_back_three_times_equals_an_undisturbed_one(tmp_path: Path, capsys: Capture) -> None:
    recipe = ["train", "cnn4.muscle_fixmatch_digits_10", "steps=60", "eval_every=20", "batch_size=8", "mu=2", "--cpu"]
    out = tmp_path / "run"
    cluster = Cluster(tmp_path / "slurm", srun=FORKED)
    for pipe in ("words", "code"):
        os.mkfifo(cluster.state / pipe)
    for step in (1, 21, 41, None):
        job = cluster.start(*recipe, "--out", str(out))
        child = _fork((cluster.state / "words").read_text().split())
        (cluster.state / "step").write_text(str(child))
        if step is not None:
            _wait_for_step(out, step)
            job.send_signal(signal.SIGUSR1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == (0 if step is None else 75)
        (cluster.state / "code").write_text(str(code))
        assert job.wait(60) == 0, (cluster.state / "output").read_text()[-2000:]
    assert cluster.asked == ["requeue 7"] * 3
    assert run([*recipe, "--out", str(tmp_path / "plain")], capsys)[0] == 0
    disturbed, plain = (json.loads((folder / "status.json").read_text()) for folder in (out, tmp_path / "plain"))
    assert {**disturbed["row"], "hours": 0} == {**plain["row"], "hours": 0}


@pytest.mark.parametrize("other", [["--vary", "lr", "0.1", "0.2"], ["--active", "random"]])
def test_only_a_plain_study_is_divided(other: list[str], capsys, tmp_path: Path) -> None:
    words = ["--methods", "supervised", "--datasets", "digits", "--labels", "10", "--out", str(tmp_path / "study")]
    code, _, err = run(["study", *words, *other, "--shard", "1/2"], capsys)
    assert code == 2 and "--shard divides a plain study" in err and not (tmp_path / "study").exists()


def _fork(words: list[str]) -> int:
    """Runs a command in a copy of this process; returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = main(words)
        finally:
            os._exit(code)
    return child


def _wait_for_step(out: Path, step: int) -> None:
    """Until a run's log has an entry of this step or a later one."""
    while True:
        log = out / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        if any(json.loads(line).get("step", 0) >= step for line in lines if line.endswith("}")):
            return
        time.sleep(0.01)
