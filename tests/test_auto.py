"""One's own pictures, end to end: `train FOLDER`, and what is made of what it compares."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from muscle_zoo import InputError, train
from muscle_zoo.auto.choices import Choices, is_own_pictures
from muscle_zoo.auto.compare import CrossValidation
from muscle_zoo.auto.findings import Comparison, Interval, OutOfFold
from muscle_zoo.auto.folds import draw_folds, number_of_folds
from muscle_zoo.auto.intervals import corrected_half_width, optimism, wilson
from muscle_zoo.auto.plan import Plan, make_plan
from muscle_zoo.auto.verdict import judge, score
from muscle_zoo.auto.words import comparison_lines, headline
from muscle_zoo.checkpoints.card import BLOCK, read_config
from muscle_zoo.data import DataSet, DataSetInfo, Split
from muscle_zoo.data.embedded import EmbeddedImages
from muscle_zoo.engine.build import Data
from muscle_zoo.engine.head import Head
from muscle_zoo.engine.held_out import HELD_OUT_RULE, calibrate_held_out
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.files import read_json
from muscle_zoo.methods.logistic import logistic_regression

from .conftest import once, run
from .pictures import make_folder, picture

BACKBONE = "cnn4.muscle_digits_10"
SHORT = {"steps": 3, "batch_size": 8, "mu": 2, "embedding_views": 2, "cpu_threads": 1}
WORDS = ["--backbone", BACKBONE, "--cpu", *(f"{key}={value}" for key, value in SHORT.items())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, and a run on it; tests only read them."""

    def fill(folder: Path) -> None:
        pictures = make_folder(folder / "pets", labeled=4, unlabeled=12, test=3)
        (pictures / "labeled" / "cat" / "broken.png").write_bytes(b"\x89PNG")
        methods = ["logistic", "knn", "muscle", "uda"]  # of weak views, of strong ones, and of none
        own = {"out": folder / "run", "methods": methods, "folds": 2, "backbone": BACKBONE}
        assert train(pictures, SHORT, cpu=True, **own).finished

    return once(tmp_path_factory, "auto", fill)


def words(trained: Path, *more: str) -> list[str]:
    return [
        "train",
        str(trained / "pets"),
        "--methods",
        "knn,muscle,uda",
        "--folds",
        "2",
        "--out",
        str(trained / "run"),
        *more,
    ]


def test_a_folder_becomes_a_run_that_other_commands_take(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Comparison.read(trained / "run")
    assert found.found.labeled == (4, 4) and found.found.unlabeled == 12 and found.found.test == (3, 3)
    assert found.found.unreadable == ("labeled/cat/broken.png",)
    assert [score.method for score in found.methods] == ["logistic", "knn", "muscle", "uda"]
    assert (found.folds, found.repeats) == (2, 3) and found.chosen not in ("", "knn")
    assert found.test is not None and not list((trained / "run" / "comparison").glob("*.safetensors"))
    said = OutOfFold.read(trained / "run")
    assert said is not None and said.probabilities["muscle"].shape == (3, 8, 2)
    torch.testing.assert_close(said.mean("knn").sum(1), torch.ones(8))
    probabilities, labels, images = said.held_out(found.chosen)
    temperature = calibrate_held_out(probabilities, labels, images).temperature
    calibration = read_config(trained / "run" / "export")[BLOCK]["calibration"]
    assert (len(labels), images) == (24, 8)
    assert (calibration["temperature"], calibration["rule"]) == (temperature, HELD_OUT_RULE)
    code, text, err = run(["eval", str(trained / "run"), "--cpu"], capsys)
    assert code == 0 and "reproduced" in text, err
    code, text, _ = run(["predict", str(trained / "run"), str(trained / "pets" / "test"), "--cpu"], capsys)
    assert code == 0 and "cat" in text


def test_the_same_command_says_the_result_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(words(trained, *WORDS), capsys)
    assert code == 0 and "test pictures right" in text and "muscle-zoo predict" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "1"], "begun with seed=0"),
        (["steps=4"], "begun with steps=3"),
        (["--data", "elsewhere"], "pictures are given twice"),
        (["fold=dev"], "'fold' is none for a folder"),
        (["fixmatch.threshold=0.5"], "of no method that is compared"),
        (["fixmatch.treshold=0.5"], "of no method that is compared"),
    ],
)
def test_what_does_not_fit_is_said(
    trained: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for word in WORDS if word.partition("=")[0] != more[0].partition("=")[0]]
    code, _, err = run(words(trained, *given, *more), capsys)
    assert code == 2 and message in err and err.count("\n") == 1


def test_changed_pictures_are_named(trained: Path, tmp_path: Path) -> None:
    plan = make_plan(trained / "pets", Choices(backbone=BACKBONE))
    assert len(plan.recipes) == 6 and plan.recipes["muscle"].mu == 2
    added = make_folder(tmp_path / "pets", labeled=4, unlabeled=12, test=3)
    picture(added / "labeled" / "dog" / "new.png", "dog", 77)
    with pytest.raises(InputError, match=r"dog/new\.png"):
        train(added, SHORT, out=trained / "run", methods=["knn", "muscle", "uda"], folds=2, backbone=BACKBONE, cpu=True)


def test_one_label_a_class_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "pets", labeled=1, unlabeled=8, test=0)
    stopped = ["train", str(pictures), *WORDS, "--out", str(tmp_path / "run"), "--time-limit", "0.01s"]
    code, text, _ = run(stopped, capsys)
    assert code == 75 and "run the same command again" in text
    assert read_json(tmp_path / "run" / "comparison" / "plan.json")["folds"] == 0  # which the next call goes on with
    code, text, _ = run([*stopped[:-2], "--fresh"], capsys)
    text = " ".join(text.split())
    assert code == 0 and "nothing can be held out" in text and "muscle, the default" in text
    found = Comparison.read(tmp_path / "run")
    assert (found.chosen, found.methods, found.expected, found.test) == ("muscle", (), None, None)
    card = (tmp_path / "run" / "export" / "README.md").read_text()
    assert "that it was trained on, which tells nothing of others" in card and "model-index" not in card


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["pets/"], "did you mean 'pet'"),
        (["nowhere/at/all.csv"], "nowhere/at neither"),
        (["pet", "--methods", "simclr"], "simclr cannot be trained on embeddings"),
        (["pet", "--methods", "muscel"], "did you mean"),
        (["pet", "--folds", "1"], "folds=1 is out of range"),
        (["pet", "--out", "pet/run"], "among the pictures"),
        (["cnn4.muscle_digits_10", "--folds", "3"], "for a folder of your own pictures"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_folder(tmp_path / "pet", labeled=2, unlabeled=1, test=0)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(["train", *given, "--cpu"], capsys)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_what_is_a_folder_and_what_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there", "cnn4.muscle_digits_10"):
        (tmp_path / name).mkdir()
    assert [is_own_pictures(word) for word in ("there", "cnn4.muscle_digits_10", "x.csv", "./y")] == [
        *(True, False, True, True)
    ]
    words = ("ther", "nowhere", "cnn4", "cnn5", "cnn4.muscle_digit_10")
    assert [is_own_pictures(word) for word in words] == [True, True, False, False, False]


def test_folds_are_stratified_and_leave_something_of_each_class() -> None:
    classes = [0] * 7 + [1] * 2 + [2] * 1 + [3] * 13
    fold = draw_folds(classes, 4, folds=4, repeats=3, seed=5)
    assert torch.equal(fold, draw_folds(classes, 4, 4, 3, 5)) and not torch.equal(fold, draw_folds(classes, 4, 4, 3, 6))
    assert not torch.equal(fold[0], fold[1])
    for held in fold:
        sizes = [int((held == k).sum()) for k in range(4)]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 22 and held[9] == -1
        for label in (0, 1, 3):
            of_class = [int((held[torch.tensor(classes) == label] == k).sum()) for k in range(4)]
            assert max(of_class) - min(of_class) <= 1 and max(of_class) < classes.count(label)
    assert number_of_folds([0, 1, 2], 3, 5) == (0, 0) and number_of_folds([0, 0, 1], 2, 5) == (2, 3)
    assert number_of_folds([0, 1] * 200, 2, 5) == (5, 1)


def embedded(n: int = 24) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    plain = torch.randn(n, 4, generator=generator) + 2.0 * labels[:, None]
    draws = tuple(plain + 0.1 * torch.randn(n, 4, generator=generator) for _ in range(2))
    images = EmbeddedImages(
        plain, labels, torch.ones(4), torch.ones(4), {"weak": draws, "strong": draws}, None, ("",) * n
    )
    info = DataSetInfo("folder", "", (4, 1, 1), ("cat", "dog"), (0.0,), (1.0,), n, 0, "", "")
    split = Split("folder", 12, 0, "labeled", tuple(range(12)), tuple(range(n)), ())
    head = Head(torch.nn.Linear(4, 2), images.mean, images.std, "00" * 32)
    return Data(DataSet(info, images, images), split, images, head=head)


def cross_validation(data: Data, folder: Path) -> CrossValidation:
    folder.mkdir(exist_ok=True)
    choices = Choices(backbone=BACKBONE, overrides=SHORT)
    recipes = {method: choices.recipe(method, {}, "labeled") for method in ("logistic", "muscle")}
    labels = (torch.arange(12) % 2).tolist()
    return CrossValidation(recipes, data, draw_folds(labels, 2, 3, 1, 0), folder, RunOptions(cpu=True))


def test_cross_validation_is_what_a_loop_over_the_folds_gives_and_goes_on(tmp_path: Path) -> None:
    data = embedded()
    validation = cross_validation(data, tmp_path / "a")
    assert len(list(validation.run())) == 6
    said, seconds = validation.out_of_fold()
    x, y = data.dataset.train.plain[:12] - 1.0, data.dataset.train.labels[:12]  # type: ignore[attr-defined]
    c = validation.recipes["logistic"].options["logistic"]["c"]
    for held in range(3):
        out = said.fold[0] == held
        weight, bias = logistic_regression(x[~out], y[~out], 2, c)
        torch.testing.assert_close(said.probabilities["logistic"][0, out], (x[out] @ weight.T + bias).softmax(1))
    assert set(seconds) == {"logistic", "muscle"}
    begun = cross_validation(data, tmp_path / "b")
    assert begun.number_done() == 0
    next(begun.run())  # and is stopped
    assert begun.number_done() == 1
    (tmp_path / "b" / "muscle-0-1.safetensors").write_bytes(b"cut short")
    assert [there for _, there in begun.run()] == [True] + [False] * 5
    assert torch.equal(begun.out_of_fold()[0].probabilities["muscle"], said.probabilities["muscle"])


def test_the_class_of_a_held_out_picture_changes_nothing_that_is_said_of_it(tmp_path: Path) -> None:
    """Nor does what it looks like change what is said of the others held out with it: it is not in the pool."""
    data, validation = embedded(), cross_validation(embedded(), tmp_path / "a")
    list(validation.run())
    said = validation.out_of_fold()[0]
    first, second = (said.fold[0] == 0).nonzero().flatten()[:2].tolist()
    images = data.dataset.train
    assert isinstance(images, EmbeddedImages)
    labels = images.labels.clone()
    labels[first] = 1 - labels[first]
    draws = {
        name: tuple(draw.clone().index_fill_(0, torch.tensor([first]), 9.0) for draw in own)
        for name, own in images.draws.items()
    }
    other = replace(data, dataset=replace(data.dataset, train=replace(images, labels=labels, draws=draws)))
    changed = cross_validation(other, tmp_path / "b")
    list(changed.run())
    for method, probabilities in changed.out_of_fold()[0].probabilities.items():
        assert torch.equal(probabilities[0, [first, second]], said.probabilities[method][0, [first, second]])
        assert not torch.equal(probabilities, said.probabilities[method])


def predictions(rights: dict[str, list[bool]]) -> OutOfFold:
    """Of eight pictures of two classes in two folds, those that each method got right."""
    labels = torch.arange(8) % 2
    said = {}
    for method, right in rights.items():
        sure = torch.where(torch.tensor(right), 0.8, 0.3)
        said[method] = torch.stack([torch.where(labels == k, sure, 1 - sure) for k in range(2)], 1)[None]
    return OutOfFold(("",) * 8, torch.arange(8), labels, torch.arange(8)[None] // 4, said)


def plan(methods: list[str], trained: Path) -> Plan:
    return replace(make_plan(trained / "pets", Choices(tuple(methods), 2, BACKBONE)), repeats=1)


def test_the_verdict(trained: Path) -> None:
    yes, no = True, False
    rights = {
        "logistic": [yes, no, yes, no, yes, no, no, no],
        "knn": [yes] * 8,
        "fixmatch": [no] * 8,
        "muscle": [yes, yes, yes, no, yes, yes, no, yes],
    }
    said = predictions(rights)
    found = judge(plan(list(rights), trained), said, dict.fromkeys(rights, 1.0))
    assert (found.chosen, found.with_unlabeled, found.control) == ("muscle", "muscle", "logistic")  # knn is no network
    assert found.score("muscle").accuracy.value == 0.75 and found.score("muscle").per_fold == (0.75, 0.75)
    assert found.gain is not None and found.expected is not None and found.optimism >= 0
    assert math.isclose(found.gain.value, 0.375 - found.gain_optimism)
    assert math.isclose(found.expected.value, 0.75 - found.optimism)
    assert headline(found).startswith("with the unlabeled pictures") and "without 37.5" in headline(found)
    assert any("cannot be exported" in line for line in comparison_lines(found))
    # Muscle: classes 0 and 1 have 3 of 4 and 3 of 4 right; logistic: 3 of 4 and 0 of 4.
    logistic = score("logistic", said, 0.0)
    assert logistic.balanced_accuracy == 0.375 and math.isclose(logistic.macro_f1, (6 / 11 + 0) / 2)
    assert math.isclose(logistic.nll, -(3 * math.log(0.8) + 5 * math.log(0.3)) / 8, rel_tol=1e-6)
    worse = judge(plan(["logistic", "fixmatch"], trained), said, dict.fromkeys(rights, 1.0))
    assert (worse.chosen, worse.with_unlabeled) == ("logistic", "fixmatch")
    assert worse.gain is not None and worse.gain.value == -0.375


ONE_MORE = {"logistic": [True] * 5 + [False] * 3, "muscle": [True, True, True, True, False, True, True, False]}
OTHERS = {  # as good as the linear probe, but right in other pictures: one of them is ahead by chance
    "fixmatch": [False, False, False, True, True, True, True, True],
    "uda": [True, True, True, False, False, True, True, False],
    "freematch": [False, True, True, True, True, False, True, False],
}


@pytest.mark.parametrize(("more", "chosen"), [({}, "muscle"), (OTHERS, "logistic")])
def test_unlabeled_pictures_are_used_where_the_corrected_gain_is_above_0(
    more: dict[str, list[bool]], chosen: str, trained: Path, tmp_path: Path
) -> None:
    """One picture more is a gain where it was one's only try, and none where it was the best of four."""
    rights = {**ONE_MORE, **more}
    said = predictions(rights)
    found = judge(plan(list(rights), trained), said, dict.fromkeys(rights, 1.0))
    assert (found.with_unlabeled, found.control, found.chosen) == ("muscle", "logistic", chosen)
    hits = np.array([right for method, right in rights.items() if method != "logistic"], dtype=float)
    assert found.gain is not None and found.gain.value == 0.125 - optimism(hits, 0)
    assert (found.gain.value > 0) is (chosen == "muscle")
    line = {
        "muscle": "+12.5 points over logistic, the best without the unlabeled pictures; that may be chance, for its "
        "interval holds 0",
        "logistic": f"with the unlabeled pictures muscle gains {100 * found.gain.value:+.1f} points: they are not used",
    }[chosen]
    said_of_it = " ".join(" ".join(comparison_lines(found)).split())
    assert found.why == line and f"chosen {chosen}: {line}" in said_of_it
    found.write(tmp_path)
    assert Comparison.read(tmp_path) == found


def test_labels_that_were_asked_for_say_nothing_of_new_pictures(trained: Path) -> None:
    rights = {"logistic": [True] * 6 + [False] * 2}
    said = replace(predictions(rights), names=tuple("abcdefgh"))
    whole = plan(["logistic"], trained)
    asked = replace(whole, listing=replace(whole.listing, added=frozenset("fgh")))  # two of the three are wrong
    found = judge(asked, said, {"logistic": 1.0})
    assert found.expected == Interval(1.0, *wilson(1.0, 5)) and found.score("logistic").accuracy.value == 0.75
    assert "by the 5 labels of before; of the 3 that were added 33.3 % are right" in found.asked
    assert found.asked in " ".join(" ".join(comparison_lines(found)).split())
    assert judge(whole, said, {"logistic": 1.0}).asked == ""


def test_the_control_is_the_best_that_learns_from_the_labels_alone(trained: Path) -> None:
    yes, no = True, False
    rights = {"logistic": [yes] * 4 + [no] * 4, "supervised": [yes] * 6 + [no] * 2, "muscle": [yes] * 5 + [no] * 3}
    found = judge(plan(list(rights), trained), predictions(rights), dict.fromkeys(rights, 1.0))
    assert (found.chosen, found.control, found.with_unlabeled) == ("supervised", "supervised", "muscle")
    assert found.gain is not None and found.gain.value == -0.125 and "without 75.0" in headline(found)


def test_intervals() -> None:
    differences = [0.1, 0.3, -0.1, 0.2, 0.0, 0.1]
    naive = student.ppf(0.975, 5) * statistics.stdev(differences) * math.sqrt(1 / 6 + 0.5)
    assert math.isclose(corrected_half_width(differences, folds=3), naive)
    low, high = wilson(0.3, 50)
    for bound in (low, high):  # where the normal test of this share just rejects 0.3
        assert math.isclose(abs(bound - 0.3), 1.959964 * math.sqrt(bound * (1 - bound) / 50), rel_tol=1e-6)
    assert wilson(1.0, 10)[1] > 1 - 1e-9 and wilson(0.0, 10)[0] < 1e-9


def test_optimism_is_what_the_best_of_equal_methods_gains_by_chance() -> None:
    generator = np.random.default_rng(0)
    measured, real = [], []
    for draw in range(8):
        hits = generator.random((5, 60)) < 0.5
        measured.append(optimism(hits.astype(float), seed=draw))
        real.append(hits.mean(axis=1).max() - 0.5)
    assert abs(np.mean(measured) - np.mean(real)) < 0.03 < np.mean(real)
    far = np.zeros((2, 60))
    far[0, :50] = 1.0
    assert optimism(far, seed=0) < 0.002
    hits = (generator.random((5, 60)) < 0.5).astype(float)
    assert optimism(hits, seed=0) > 0.02
    assert optimism(hits, seed=0, handicaps=[9.0, 9.0, 0.0, 9.0, 9.0]) < 0.01  # there was no choice
    assert optimism(hits, 0, [0.1] * 5) == optimism(hits, 0)
