"""What goes wrong midway: other data, workers that crash or die, evaluations that fail, wrong options."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from muscle_zoo import InputError
from muscle_zoo.engine.run import Run
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.sessions import evaluate as evaluation
from muscle_zoo.sessions import study
from tests.conftest import SHORT, listing, run
from tests.pictures import make_folder

WORDS = ["study", "steps=4", "eval_every=4", "batch_size=4", "mu=1", "--methods", "supervised", "--cpu"]
OUTPUT = pytest.CaptureFixture[str]


def test_a_study_on_other_pictures_does_not_show_the_old_ones_results(tmp_path: Path, capsys: OUTPUT) -> None:
    a, b = (make_folder(tmp_path / name) for name in "ab")
    words = [*WORDS, "image_size=32", "--datasets", "folder", "--labels", "8", "--seeds", "1", "--arch", "test_resnet"]
    words += ["--out", str(tmp_path / "s")]
    assert run([*words, "--data", str(a)], capsys)[0] == 0
    code, out, err = run([*words, "--data", str(b)], capsys)
    assert code == 2 and f"is a finished run on {a}, not on {b}; give another --out, or --fresh" in err and not out
    code, _, err = run([*words, "--data", str(b), "--ledger", str(tmp_path / "s" / "results.csv")], capsys)
    assert code == 2 and "a ledger does not say whose pictures" in err


def test_a_run_that_crashes_fails_alone(tmp_path: Path, capsys: OUTPUT) -> None:
    words = [*WORDS, "--datasets", "digits", "--labels", "10", "--seeds", "1", "--out", str(tmp_path / "s")]
    crashing, other = (tmp_path / "s" / "runs" / f"cnn4.{m}_digits_10" / "seed0" for m in ("supervised", "muscle"))
    assert run(words, capsys)[0] == 0
    for folder in (crashing, other):  # as if both had been killed before their last step was noted down
        RunFolder(folder).write_status("running", 4, 4)
    (crashing / "log.jsonl").unlink()
    (crashing / "log.jsonl").mkdir()
    code, out, err = run(words, capsys)
    assert code == 1 and "2/2" in out and str(crashing) in err and "IsADirectoryError" in err
    assert RunFolder(other).read_status()["status"] == "finished"


def dies_in_the_first_run(connection: Connection) -> None:
    """A worker that the system kills, as it does when memory is short, at the first method; else the real one."""
    recipe, folder, options = connection.recv()
    if recipe.method == "supervised":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.send((study.train_run(recipe, folder, options).finished, ""))


def test_a_worker_that_dies_is_replaced_and_its_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    monkeypatch.setattr(study, "_work", dies_in_the_first_run)
    words = [*WORDS, "--datasets", "digits", "--labels", "10", "--seeds", "1", "--out", str(tmp_path / "s")]
    code, out, err = run(words, capsys)
    assert code == 1 and "its process died (exit code -9)" in err and "2/2" in out and "stopped" not in out
    monkeypatch.undo()
    code, out, _ = run(words, capsys)
    assert code == 0 and "2 runs, 1 of them done" in out


@pytest.mark.parametrize("wrong", [["--compile", "bogus"], ["--workers", "-1"], ["--tracker", "none_such"]])
def test_the_quickstart_sets_nothing_aside_for_wrong_options(wrong: list[str], tmp_path: Path, capsys: OUTPUT) -> None:
    (tmp_path / "q" / "supervised").mkdir(parents=True)
    (tmp_path / "q" / "summary.json").write_text("{}")
    before = listing(tmp_path)
    code, _, err = run(["train", "--fresh", "--cpu", "--out", str(tmp_path / "q"), *wrong], capsys)
    assert code == 2 and wrong[0] in err and listing(tmp_path) == before


@pytest.mark.parametrize("error", [InputError("no such images"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_run_that_an_error_ends_is_failed(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    words = ["train", *SHORT, "--cpu", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(Run, "measure", fails)
    if type(error) is ValueError:
        with pytest.raises(ValueError, match="a bug"):
            run(words, capsys)
    else:
        assert run(words, capsys)[0] == (2 if isinstance(error, InputError) else 1)
    status = RunFolder(tmp_path / "run").read_status()
    assert status["status"] == "failed" and status["why"] == f"{type(error).__name__}: {error}"
    monkeypatch.undo()
    assert run(words, capsys)[0] == 0  # what was saved before it is gone on with


def test_wrong_input_leaves_the_status_of_an_older_run_alone(tmp_path: Path, capsys: OUTPUT) -> None:
    words = ["train", *SHORT, "--cpu", "--out", str(tmp_path / "run")]
    assert run([*words, "--time-limit", "0.000001"], capsys)[0] == 75
    before = listing(tmp_path)
    assert run([*words, "--mixed-precision", "bf16"], capsys)[0] == 2
    assert listing(tmp_path) == before


def test_a_checkpoint_is_evaluated_on_the_accelerator(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    asked = []
    monkeypatch.setattr(evaluation, "device_for", lambda cpu: asked.append(cpu) or torch.device("meta"))
    code, _, err = run(["eval", str(finished_run)], capsys)
    assert code == 2 and "cannot be evaluated" in err  # the logits of such a device never become numbers
    monkeypatch.setattr(evaluation, "device_for", lambda cpu: asked.append(cpu) or torch.device("cpu"))
    assert run(["eval", str(finished_run), "--cpu"], capsys)[0] == 0
    assert asked == [False, True]
