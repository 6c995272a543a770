"""What goes wrong midway: other data, workers that crash or die, evaluations that fail, wrong options."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from muscle_zoo import InputError
from muscle_zoo.engine.run import Run
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.results.ledger import write_ledger
from muscle_zoo.sessions import evaluate as evaluation
from muscle_zoo.sessions import study
from tests import dying
from tests.conftest import SHORT, listing, run
from tests.pictures import make_folder

CHANGES = ["steps=4", "eval_every=4", "batch_size=4", "mu=1"]
WORDS = ["study", *CHANGES, "--methods", "supervised", "--cpu"]
OUTPUT = pytest.CaptureFixture[str]


def test_a_study_on_other_pictures_does_not_show_the_old_ones_results(tmp_path: Path, capsys: OUTPUT) -> None:
    a, b = (make_folder(tmp_path / name) for name in "ab")
    name, out = "test_resnet.supervised_folder_8", tmp_path / "s"
    done = ["train", name, *CHANGES, "image_size=32", "--cpu", "--out", str(out / "runs" / name / "seed0")]
    assert run([*done, "--data", str(a)], capsys)[0] == 0
    words = [*WORDS, "image_size=32", "--datasets", "folder", "--labels", "8", "--seeds", "1", "--arch", "test_resnet"]
    words += ["--out", str(out)]
    code, printed, err = run([*words, "--data", str(b)], capsys)
    says = f"is a finished run on {a}, not on {b}; give another folder, or start over with `train --fresh`"
    assert code == 2 and says in err and not printed  # `study` has no such option
    write_ledger(out / "results.csv", [])
    code, _, err = run([*words, "--data", str(b), "--ledger", str(out / "results.csv")], capsys)
    assert code == 2 and "a ledger does not say whose pictures" in err


def test_a_run_that_crashes_fails_alone(tmp_path: Path, capsys: OUTPUT) -> None:
    words = [*WORDS, "--datasets", "digits", "--labels", "10", "--seeds", "1", "--out", str(tmp_path / "s")]
    crashing, other = (tmp_path / "s" / "runs" / f"cnn4.{m}_digits_10" / "seed0" for m in ("supervised", "muscle"))
    assert run(["train", "cnn4.supervised_digits_10", *CHANGES, "--cpu", "--out", str(crashing)], capsys)[0] == 0
    RunFolder(crashing).write_status("running", 4, 4)  # as if it had been killed before its last step was noted down
    (crashing / "log.jsonl").unlink()
    (crashing / "log.jsonl").mkdir()
    code, out, err = run(words, capsys)
    assert code == 1 and "2/2" in out and str(crashing) in err and "IsADirectoryError" in err
    assert RunFolder(other).read_status()["status"] == "finished"


def test_a_worker_that_dies_is_replaced_and_its_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    lives = tmp_path / "lives"
    monkeypatch.setenv(dying.LIVES, str(lives))
    monkeypatch.setattr(study, "_work", dying.work)
    words = [*WORDS, "--datasets", "digits", "--labels", "10", "--seeds", "2", "--out", str(tmp_path / "s")]
    code, out, err = run(words, capsys)
    assert code == 1 and err.count("its process died: SIGKILL") == 2 and "4/4" in out and "stopped" not in out
    done = [f"cnn4.{m}_digits_10/seed1" for m in ("supervised", "muscle")]
    assert all(RunFolder(tmp_path / "s" / "runs" / path).read_status()["status"] == "finished" for path in done)
    # Readers of pictures start as they do under `train`; were they spawned as the worker is, each would import torch.
    assert lives.read_text().split() == [*["worker"] * 3, multiprocessing.get_start_method()]
    monkeypatch.setattr(
        study._Pool, "run", lambda pool: study.StudyResult(stopped=[r.seed for r, _ in pool.todo] == [0, 0])
    )
    code, out, _ = run(words, capsys)
    assert code == 75 and "4 runs, 2 of them done" in out  # what failed is tried again, and nothing else


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


def test_memory_is_suspected_of_a_dead_process_only_where_the_system_killed_it() -> None:
    assert "memory" in study.how_it_died(-9)
    assert [study.how_it_died(code) for code in (-11, -77, 1)] == ["SIGSEGV", "signal 77", "exit code 1"]
