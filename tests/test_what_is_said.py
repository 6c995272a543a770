"""What the commands say to somebody who waits, and who does not know the words yet."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from muscle_zoo import InputError, get_recipe
from muscle_zoo.auto.choices import Choices
from muscle_zoo.auto.words import will_lines
from muscle_zoo.checkpoints.target import checkpoint_name, one_run
from muscle_zoo.commands.eval import render
from muscle_zoo.commands.info_words import about
from muscle_zoo.data import dataset_names
from muscle_zoo.engine import training_progress
from muscle_zoo.engine.training_progress import TrainingProgress
from muscle_zoo.errors import Notice
from muscle_zoo.methods import default_options, method_names
from muscle_zoo.results.stats import of_few
from tests.conftest import run
from tests.pictures import make_folder

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
    assert 10 < len(told) < 25
    with TrainingProgress(recipe, 0, False) as progress:
        progress.step_done()
    assert capsys.readouterr().err == ""


def recipes_in(uses: list[str]) -> list[str]:
    """The recipes that lines tell to train, each of which must be one."""
    words = [shlex.split(line, comments=True) for line in uses if line.startswith("muscle-zoo train ")]
    named = [(word[2], dict(other.split("=") for other in word[3:])) for word in words if not word[2].endswith("/")]
    return [get_recipe(name, overrides).name for name, overrides in named]


@pytest.mark.parametrize("name", method_names())
def test_info_of_a_method(name: str) -> None:
    facts, parts = about(name)
    assert facts["options"] == {
        f"{part}.{key}": value for part, own in default_options(name).items() for key, value in own.items()
    }
    assert all(": " in line for line in parts.get("Options", [])), "an option is not described"
    assert facts["what"] and any(f".{name}_" in recipe for recipe in recipes_in(parts["Use it"]))


@pytest.mark.parametrize("name", [*dataset_names(), "synthetic:1x8x8x2", "cnn4", "resnet18", "vit_tiny_patch16_224"])
def test_info_of_a_data_set_and_of_a_backbone(name: str) -> None:
    facts, parts = about(name)
    assert facts["kind"] == ("data set" if name in dataset_names() or ":" in name else "backbone")
    assert all(name.partition(":")[0] in recipe for recipe in recipes_in(parts["Use it"]))


def test_info_prints_what_a_word_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(["info", "muscle_fixmatch"], capsys)
    assert code == 0 and "https://arxiv.org/abs/2001.07685" in out and "\n  fixmatch.threshold=0.95: Least" in out
    assert "65,834 parameters" in run(["info", "cnn4"], capsys)[1]
    assert json.loads(run(["info", "digits", "--json"], capsys)[1])["train_size"] == 1437
    (tmp_path / "digits").mkdir()  # a folder of that name is meant
    assert run(["info", "digits"], capsys)[0] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init=mypics"], "init=mypics: there are no such weights; give a run folder (runs/NAME/seed0)"),
        (
            ["init=pictures"],
            "init=pictures has neither recipe.json nor config.json; give a run folder (runs/NAME/seed0)",
        ),
        (["init=fixmatch"], "init=fixmatch: there are no such weights; give a run folder (runs/NAME/seed0)"),
    ],
)
def test_what_init_can_be_is_told(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = run(["train", NAME, *words, "--cpu"], capsys)
    assert code == 2 and says in err and err.count("\n") == 1


def test_what_a_backbone_can_be_is_told() -> None:
    with pytest.raises(InputError, match=r"backbone=foo: there are no such weights; give a run folder"):
        Choices(backbone="foo")


def test_a_share_of_few_pictures_is_told_with_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (of_few(29), of_few(30), of_few(1)) == (" of 29 pictures", "", " of 1 picture")
    folder = make_folder(tmp_path / "pictures", labeled=4, unlabeled=4, test=2)
    out = tmp_path / "run"
    words = ["--data", str(folder), "--cpu"]
    few = ["steps=1", "eval_every=1", "batch_size=4", "mu=1"]
    code, _, err = run(["train", "cnn4.supervised_folder_all", *few, *words, "--out", str(out)], capsys)
    assert code == 0 and " % of 4 pictures\n" in err
    code, shown, _ = run(["eval", str(out), *words], capsys)
    assert code == 0 and shown.count(" % of 4 pictures") == 2 and "accuracy per class, of 4 pictures in all" in shown


def test_the_only_run_in_a_folder_is_taken(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "mine" / "seed0")
    inside = tmp_path / "mine" / "seed0"
    with pytest.warns(Notice, match=r"mine is no run folder, but holds one, which is taken: .*seed0$"):
        assert one_run(tmp_path / "mine") == inside
    with pytest.warns(Notice):
        assert checkpoint_name(str(tmp_path / "mine")) == f"local-dir:{inside / 'export'}"
    assert one_run(inside) == inside and one_run(tmp_path / "nowhere") == tmp_path / "nowhere"
    shutil.copytree(finished_run, tmp_path / "mine" / "seed1")
    with pytest.raises(InputError, match=r"holds 2 runs; give .*seed0 or .*seed1"):
        one_run(tmp_path / "mine")


STOPPED = "pets is not finished: it was stopped while comparing; run the same train command again"
NO_RUN = "is no run folder: it does not exist; give one that `train` made"


@pytest.mark.parametrize("words", [["suggest"], ["report"], ["export"], ["publish", "--namespace", "owner"]])
def test_a_run_that_was_stopped_while_comparing_is_not_called_no_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is one that is not there."""
    monkeypatch.chdir(tmp_path)
    Path("pets/comparison").mkdir(parents=True)
    with pytest.raises(InputError, match=STOPPED):
        checkpoint_name("pets")
    licensed = ["--license", "mit"] if words[0] == "publish" else []
    for name, message in (("pets", STOPPED), ("./pets", STOPPED), ("secnd", NO_RUN)):
        code, _, err = run([*words, name, *licensed], capsys)
        assert code == 2 and message in err, err
    if licensed:
        code, _, err = run([*words, "pets"], capsys)
        assert code == 2 and STOPPED in err, err


def test_eval_says_that_it_was_trained_on_these_pictures() -> None:
    figure = {"top1": 1.0, "n": 40, "reproduced": True}
    report = {
        "name": "pets",
        "origin": "run",
        "dataset": "folder",
        "n": 40,
        "fold": "labeled",
        "top1": 1.0,
        "top5": 1.0,
    }
    report |= {
        "top1": 1.0,
        "top5": 1.0,
        "nll": 0.5,
        "ece": 0.4,
        "temperature": 1,
        "published": figure,
        "per_class": {"cat": 1.0, "dog": 1.0},
    }
    known = "  It was trained on these pictures: what follows says nothing of new ones."
    assert render(report).splitlines()[2] == known and "top-5" not in render(report)
    attacked = render({**report, "attack": "pgd", "attacked_top1": 0.5}).splitlines()
    assert attacked[2] == known and "top-1  " in attacked[3] and "top-1, pgd" in attacked[4]
    more = {**report, "fold": "test", "per_class": dict.fromkeys("abcdef", 1.0)}
    assert known not in render(more) and "top-5" in render(more)


def test_a_time_limit_that_will_end_it_is_said_before() -> None:
    found = SimpleNamespace(labeled=(4, 4), unlabeled=9, test=())
    plan = SimpleNamespace(found=found, side=64, folds=0, fallback="logistic", control=SimpleNamespace(init="net"))
    speed = SimpleNamespace(reading=0.0, embedding=600.0, comparing=300.0, training=60.0, total=960.0)
    speed.embedding_threads = speed.step_threads = 1
    told = [" ".join(" ".join(will_lines(plan, speed, Path("out"), limit)).split()) for limit in (300.0, 960.0, None)]
    assert "end it before that: the same command goes on, about 4 times in all" in told[0]
    assert told[1] == told[2] and "end it before" not in told[1]


def test_info_on_a_method_says_where_recipes_have_another_value() -> None:
    options = about("uda")[1]["Options"]
    used = get_recipe("cnn4.uda_digits_10").options["uda"]
    assert used["threshold"] == 0.6 and options[0].endswith("; 0.6 in cnn4.uda_digits_10")
    assert not any("cnn4.uda_digits_10" in line for line in options[1:])
