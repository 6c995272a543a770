"""What the commands say to somebody who waits, and who does not know the words yet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from muscle_zoo import get_recipe
from muscle_zoo.engine import training_progress
from muscle_zoo.engine.training_progress import TrainingProgress
from tests.conftest import run

NAME = "cnn4.muscle_digits_10"


def test_training_says_first_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", NAME, "steps=4", "eval_every=4", "--cpu", "--out", str(tmp_path / "run")]
    code, _, err = run([*words, "--time-limit", "0.000001"], capsys)
    first = f"training {NAME}: 4 steps;\nCtrl-C is safe: the same command goes on\n"
    assert code == 75 and err.startswith(first)
    code, _, err = run(words, capsys)
    assert code == 0 and err.startswith(f"training {NAME}: 4 steps, 1 of them are done;\n")
    lines = err.splitlines()
    assert lines[2].startswith(f"{NAME}: step 4 of 4, accuracy") and lines[3].startswith("exporting the network")
    code, _, err = run(words, capsys)
    assert (code, err) == (0, "")  # nothing is left to do


def test_training_says_soon_how_long_it_takes_and_then_keeps_saying_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(training_progress, "time", SimpleNamespace(monotonic=lambda: now))
    recipe = get_recipe(NAME, {"steps": 200, "probe_steps": 3, "eval_every": 200})
    with TrainingProgress(recipe, 0, True) as progress:
        for step in range(200):
            now += 2.0 if step < 3 else 10.0
            progress.step_done()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"training {NAME}: 200 steps, the first 3 of the classifier alone;"
    assert told[2] == "it takes more than 7 minutes more"  # by two steps of the classifier alone
    assert told[3] == f"{NAME}: step 9 of 200, about 28 minutes more"  # by seven steps, one of them of the classifier
    # After ten minutes less often: whoever reads the log of hours wants no line a minute.
    assert 10 < len(told) < 20
    with TrainingProgress(recipe, 0, False) as progress:
        progress.step_done()
    assert capsys.readouterr().err == ""
