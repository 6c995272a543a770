"""Label, train, label again: which images are asked for, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muscle_zoo import get_recipe
from muscle_zoo.auto import active
from muscle_zoo.data import load_dataset
from muscle_zoo.engine.build import split_of
from muscle_zoo.errors import InputError
from muscle_zoo.results.active_table import active_table
from tests.conftest import listing, run
from tests.pictures import make_folder

TASK = ["--methods", "fixmatch", "--datasets", "digits", "--labels", "10", "--seeds", "1"]
SHORT = ["steps=4", "eval_every=4", "batch_size=8", "mu=2", "fold=dev"]
WORDS = ["study", *TASK, "--active", "margin", "random", "disagreement", "--rounds", "1", "--add", "6", *SHORT, "--cpu"]


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MUSCLE, which would double what is run."""
    monkeypatch.setattr("muscle_zoo.results.study.takes_steps", lambda name: False)


@pytest.mark.usefixtures("_alone")
def test_rules_begin_alike_and_add_labels_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*WORDS, "--save-every", "2", "--out", str(tmp_path)]
    code, out, err = run(words, capsys)
    assert code == 0, err
    curves = json.loads((tmp_path / active.CURVES_FILE).read_text())
    assert [curve["rule"] for curve in curves] == ["margin", "random", "disagreement"]
    recipe = get_recipe("cnn4.fixmatch_digits_10", {"fold": "dev"})
    _, split = split_of(recipe, load_dataset("digits"))
    for curve in curves:
        first, second = curve["positions"]
        assert curve["labels"] == [10, 16] and first == list(split.labeled)
        assert len(set(second)) == 6 and not set(second) & set(first) and set(second) <= set(split.unlabeled)
        assert all(0 < top1 < 1 for top1 in curve["top1"])
        shown = " ".join(f"{n}:{100 * top1:.1f}" for n, top1 in zip(curve["labels"], curve["top1"], strict=True))
        assert f"cnn4.fixmatch_digits_10 seed=0 {curve['rule']}: {shown}" in out
    assert len({tuple(curve["positions"][1]) for curve in curves}) == 3
    assert len({curve["top1"][0] for curve in curves}) == 1
    assert active_table(curves) in out and active_table(curves) in (tmp_path / "active.md").read_text()
    assert not list(tmp_path.rglob("results.csv"))  # no ledger

    # The same once more trains and asks nothing.
    before = listing(tmp_path)
    monkeypatch.setattr(active, "choose", lambda *words: pytest.fail("it asked again"))
    assert run(words, capsys)[0] == 0
    assert [entry for entry in listing(tmp_path) if entry[0].endswith("safetensors")] == [
        entry for entry in before if entry[0].endswith("safetensors")
    ]


@pytest.mark.usefixtures("_alone")
def test_a_folder_that_answers_for_all_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "folder", labeled=8, unlabeled=0)
    words = ["--methods", "supervised", "--datasets", "folder", "--labels", "4", "--seeds", "1", "--rounds", "1"]
    words += ["--active", "margin", *SHORT[:3], "image_size=16", "--data", str(folder), "--cpu", "--workers", "0"]
    code, _, err = run(["study", *words, "--out", str(tmp_path / "out")], capsys)
    assert code == 0, err
    (curve,) = json.loads((tmp_path / "out" / active.CURVES_FILE).read_text())
    assert curve["labels"] == [4, 8] and len({*curve["positions"][0], *curve["positions"][1]}) == 8


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--active", "margn"], "--active margn is unknown; give some of diverse"),
        (["--active", "margin", "--rounds", "0"], "--rounds 0 is out of range"),
        (["--active", "margin", "--add", "0"], "--add 0 is out of range"),
        (["--add", "5"], "--add 5 is for --active"),
        (["--active", "margin", "--jobs", "2"], "leave out --vary, --ledger and --jobs"),
        (["--active", "margin", "split=x.json"], "--active begins with a number of labels"),
    ],
)
def test_what_cannot_be_run(wrong: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["study", *TASK, *wrong, "--cpu", "--out", str(tmp_path)], capsys)
    assert code == 2 and says in err and not any(tmp_path.iterdir())


@pytest.mark.usefixtures("_alone")
def test_one_that_is_stopped_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run([*WORDS, "--time-limit", "0.000001", "--out", str(tmp_path)], capsys)
    assert code == 75 and "stopped; run the same command again" in out


def test_a_table_pairs_each_rule_with_random_by_seed() -> None:
    def curve(rule: str, seed: int, *top1: float) -> dict[str, object]:
        return {"rule": rule, "name": "cnn4.muscle_digits_10", "seed": seed, "labels": [10, 20, 30], "top1": top1}

    curves = [curve("margin", 0, 0.1, 0.64, 0.76), curve("random", 0, 0.1, 0.6, 0.7), curve("margin", 1, 0.3, 0.5, 0.9)]
    curves += [curve("random", 1, 0.3, 0.5, 0.7), curve("margin", 2, 0.0, 0.0, 0.0)]  # seed 2 has no control
    # Means over the rounds: +4 and +6 are +5 at seed 0, +0 and +20 are +10 at seed 1; t of one degree is 12.706.
    margin, random = active_table(curves).splitlines()[2:]
    assert margin == "| muscle | margin | 13.3 ± 15.3 | 38.0 ± 33.6 | 55.3 ± 48.4 | +7.5 (-24.3 to +39.3) | 3 |"
    assert random == "| muscle | random | 20.0 ± 14.1 | 55.0 ± 7.1 | 70.0 ± 0.0 |  | 2 |"
    with pytest.raises(InputError, match="no table together"):
        active_table([*curves, {**curve("random", 0, 0.1), "labels": [10]}])
