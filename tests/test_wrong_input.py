"""Wrong input, in one table: exit code 2, one line that names the field, the value and the remedy, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SHORT, listing, run, truncated, wrong_hash
from tests.pictures import make_folder, picture

NAME = SHORT[0]


def nothing(folder: Path, finished: Path) -> None:
    """The folder stays empty."""


def another_recipe(folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "out")


def a_file(folder: Path, finished: Path) -> None:
    (folder / "out").write_text("mine")


def my_folder(folder: Path, finished: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("mine")


INSIDE = "mine is no run folder, but holds 2 runs; give runs/mine/seed0 or runs/mine/seed1"


def runs_of_a_name(folder: Path, finished: Path) -> None:
    for seed in ("seed0", "seed1"):
        shutil.copytree(finished, folder / "runs" / "mine" / seed)


def broken_recipe(folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "out")
    (folder / "out" / "recipe.json").write_text("{")


def cards(change: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def prepare(folder: Path, finished: Path) -> None:
        shutil.copytree(finished / "export", folder / "card")
        change(folder / "card")

    return prepare


def state_gone(folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "out")
    shutil.rmtree(folder / "out" / "state")
    shutil.rmtree(folder / "out" / "export")


def lost_recipe(folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "out")
    (folder / "out" / "recipe.json").unlink()


def unknown_architecture(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    (card / "config.json").write_text(json.dumps({**config, "architecture": "cnn44"}))


def damaged_block(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    config["muscle_zoo"]["recipe"] = []
    (card / "config.json").write_text(json.dumps(config))


def foreign_row(folder: Path, finished: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "status.json").write_text(json.dumps({"status": "finished", "row": {"color": "blue"}}))


def foreign_config(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    del config["muscle_zoo"]
    (card / "config.json").write_text(json.dumps(config))


def my_pictures(change: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def prepare(folder: Path, finished: Path) -> None:
        change(make_folder(folder / "my_data"))

    return prepare


def one_class(data: Path) -> None:
    for part in ("labeled", "test"):
        shutil.rmtree(data / part / "dog")


def corrupt(data: Path) -> None:
    path = data / "labeled" / "cat" / "000.png"
    path.write_bytes(path.read_bytes()[:200])


def twice(data: Path) -> None:
    shutil.copy(data / "labeled" / "cat" / "000.png", data / "labeled" / "dog" / "copy.png")


def a_csv(*lines: str) -> Callable[[Path], None]:
    return lambda data: (data / "labels.csv").write_text("\n".join(lines)) and None


def digits_list(*lines: str) -> Callable[[Path, Path], None]:
    return lambda folder, finished: (folder / "list.txt").write_text("\n".join(lines)) and None


def half_a_set(name: str, *files: str) -> Callable[[Path, Path], None]:
    def prepare(folder: Path, finished: Path) -> None:
        for file in files:
            (folder / "data" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / name / file).write_bytes(b"half of it")

    return prepare


FOLDER = ["train", "cnn4.muscle_folder_4", "--data", "my_data"]
WRONG_DATA = {
    "no data": (nothing, ["train", "cnn4.muscle_folder_4"], "say which folder (--data my_data)"),
    "data missing": (nothing, FOLDER, "--data my_data does not exist; give your folder or CSV of pictures"),
    "data a file": (lambda f, r: (f / "my_data").write_text("x") and None, FOLDER, "my_data is a file, not a folder"),
    "data empty": (lambda f, r: (f / "my_data").mkdir(), FOLDER, "my_data has no folder of a class with pictures"),
    "one class": (my_pictures(one_class), FOLDER, "one class only ('cat'); two or more are needed"),
    "empty class": (my_pictures(lambda d: (d / "labeled" / "owl").mkdir()), FOLDER, "owl holds no pictures"),
    "no labeled": (my_pictures(lambda d: shutil.rmtree(d / "labeled")), FOLDER, "and no labeled/"),
    "unknown class": (my_pictures(lambda d: picture(d / "test" / "dogs" / "a.png", "dog", 1)), FOLDER,
                      "is not a class of my_data/labeled; did you mean 'dog'"),
    "budget of a class": (my_pictures(lambda d: None), [*FOLDER, "labels=100"],
                          "labels=100 is more than there are: folder has 12 labeled images"),
    "small class": (my_pictures(lambda d: (d / "labeled" / "cat" / "000.png").unlink()), [*FOLDER, "labels=12"],
                    "labels=12 is more than there are: folder has 11"),
    "mixed sizes": (my_pictures(lambda d: picture(d / "labeled" / "cat" / "x.png", "cat", 7, (30, 20))), FOLDER,
                    "have 2 sizes, from 24x24 to 30x20; say the side of the images they become, such as image_size=64"),
    "image_size": (my_pictures(lambda d: None), [*FOLDER, "image_size=1100"], "image_size=1100 is out of range"),
    "image_size of a set": (nothing, ["train", NAME, "image_size=7"], "image_size=7 is out of range; give 8 to 1024"),
    "corrupt": (my_pictures(corrupt), [*FOLDER, "--strict"], "1 of 52 pictures"),
    "contradictory": (my_pictures(twice), [*FOLDER, "--strict"], "1 picture of the training part in two classes"),
    "no test": (my_pictures(lambda d: shutil.rmtree(d / "test")), FOLDER, "fold=test: folder has no such images; add"),
    "no such csv": (nothing, ["train", "cnn4.muscle_folder_4", "--data", "my.csv"], "--data my.csv does not exist"),
    "unknown path": (my_pictures(a_csv("path,label", "labeled/cat/000.png,cat", "gone.png,dog")),
                     ["train", "cnn4.muscle_folder_4", "--data", "my_data/labels.csv"],
                     "labels.csv line 3: 'gone.png' does not exist"),
    "no header": (my_pictures(a_csv("cat,000.png")),
                  ["train", "cnn4.muscle_folder_4", "--data", "my_data/labels.csv"], "it must be path,label"),
    "half a download": (half_a_set("cifar10", "cifar-10-batches-py/data_batch_1"),
                        ["train", "cnn4.muscle_cifar10_40"], "CIFAR-10 in data/cifar10 is damaged or not whole"),
    "not that set": (half_a_set("svhn", "readme.txt"), ["train", "cnn4.muscle_svhn_40"], "svhn"),
    "half an IDX set": (half_a_set("mnist", "train-images-idx3-ubyte.gz"), ["train", "cnn4.muscle_mnist_40"],
                        "does not hold all four files of mnist"),
    "imagenet missing": (nothing, ["train", "resnet50.fixmatch_imagenet_1pct"], "imagenet is not in data: put its"),
    "mini missing": (nothing, ["train", "resnet18.fixmatch_mini_imagenet_4000"], "put images/, train.csv"),
    "jpeg not whole": (half_a_set("cifar10_jpeg", "train/cat/0.jpg", "test/cat/0.jpg"),
                       ["train", "cnn4.muscle_cifar10_jpeg_40"], "has 1 folders, not the 10 classes of cifar10_jpeg"),
    "bad synthetic": (nothing, ["train", "cnn4.muscle_synthetic:2x8x8x10_40"], "1 or 3 channels"),
    "unknown data set": (nothing, ["data", "show", "digit"], "did you mean"),
    "workers": (nothing, ["train", NAME, "--workers", "-1"], "--workers -1 is out of range"),
    "bias": (nothing, ["train", NAME, "bias=imbalance"], "bias=imbalance is wrong; write none or imbalance:R"),
    "mismatch": (nothing, ["train", NAME, "mismatch=0.5"], "mismatch=0.5: no image is of a class outside the task"),
    "mismatch range": (nothing, ["train", NAME, "mismatch=1.5"], "mismatch=1.5 is out of range; give 0 to 1"),
    "classes": (nothing, ["train", NAME, "classes=1+cat"], "classes=1+cat: 'cat' is not a class of digits"),
    "validation": (nothing, ["train", NAME, "fold=validation"], "there are no validation images; give validation=0.2"),
    "no list": (nothing, ["train", NAME, "split=list.txt"], "split=list.txt cannot be read"),
    "wrong list": (digits_list("3", "cat"), ["train", NAME, "split=list.txt"], "'cat' is not among the training"),
    "short list": (digits_list("3", "4"), ["train", NAME, "split=list.txt"], "lists 2 images, labels=10; give"),
    "list of another": (lambda f, r: shutil.copy(r / "split.json", f) and None,
                        ["train", "cnn4.muscle_synthetic:1x8x8x10_10", "split=split.json"], "is a split of digits"),
    "sheet": (nothing, ["data", "show", "digits", "--out", "sheet"], "--out sheet: write a name that ends in .png"),
    "bench what": (nothing, ["bench", "date"], "date"),
}  # fmt: skip

WRONG_INPUT = {
    "unknown recipe": (nothing, ["train", "cnn4.muscle_digit_10"], "data set 'digit'; did you mean 'digits'"),
    "unknown arch": (nothing, ["train", "cnn3.muscle_digits_10"], "arch 'cnn3'; did you mean 'cnn"),
    "unknown override": (nothing, ["train", NAME, "learning_rate=1"], "'learning_rate' does not exist"),
    "unknown option": (nothing, ["train", NAME, "muscle.treshold=1"], "'muscle.treshold' does not exist"),
    "option of another": (nothing, ["train", NAME, "fixmatch.threshold=1"], "'fixmatch.threshold' is an option of fix"),
    "wrong type": (nothing, ["train", NAME, "steps=many"], "'many' is not a whole number"),
    "wrong range": (nothing, ["train", NAME, "muscle.weight=-1"], "muscle.weight=-1.0"),
    "no override": (nothing, ["train", NAME, "steps"], "'steps' is not key=value"),
    "override twice": (nothing, ["train", NAME, "seed=1", "seed=2"], "given twice"),
    "override alone": (nothing, ["train", "seed=1"], "needs a recipe before it"),
    "fewer than one per class": (nothing, ["train", "cnn4.muscle_digits_9"], "labels=9 is fewer than one per class"),
    "more than there are": (nothing, ["train", "cnn4.muscle_digits_9999"], "labels=9999 is more than there are"),
    "budget override": (nothing, ["train", NAME, "labels=5"], "labels=5 is fewer than one per class"),
    "wrong policy": (nothing, ["train", NAME, "strong=cut(1)"], "'cut' is unknown; did you mean 'cutout'"),
    "wrong optimizer": (nothing, ["train", NAME, "optimizer=sgdd"], "optimizer=sgdd"),
    "nesterov": (nothing, ["train", NAME, "momentum=0"], "optimizer=sgd refuses lr=0.05 momentum=0.0"),
    "wrong tracker": (nothing, ["train", NAME, "--tracker", "papers"], "--tracker"),
    "wrong precision": (nothing, ["train", NAME, "--mixed-precision", "int8"], "--mixed-precision"),
    "wrong time": (nothing, ["train", NAME, "--time-limit", "soon"], "'soon' is not a time"),
    "wrong interval": (nothing, ["train", NAME, "--save-every", "0"], "--save-every 0"),
    "unknown flag": (nothing, ["train", NAME, "--gpus", "2"], "--gpus"),
    "no unlabeled": (nothing, ["train", NAME, "mu=0"], "mu=0"),
    "another recipe": (another_recipe, ["train", NAME, "--out", "out"], "out holds another recipe"),
    "a file": (a_file, ["train", NAME, "--out", "out"], "out exists and is not a run folder"),
    "a folder of mine": (my_folder, ["train", NAME, "--out", "out"], "out exists and is not a run folder"),
    "fresh, but wrong": (another_recipe, ["train", NAME, "optimizer=sgdd", "--out", "out", "--fresh"], "sgdd is"),
    "a file in the way": (a_file, ["train", NAME, "--out", "out/run"], "run folder out/run cannot be made"),
    "quickstart there": (my_folder, ["train", "--out", "out"], "--out out exists"),
    "state gone": (state_gone, ["train", *SHORT, "--cpu", "--out", "out"], "state is gone, and 24 steps were done"),
    "lost recipe": (lost_recipe, ["train", *SHORT, "--out", "out"], "recipe.json is missing; restore it, give another"),
    "a name's folder, eval": (runs_of_a_name, ["eval", "runs/mine"], INSIDE),
    "a name's folder, export": (runs_of_a_name, ["export", "runs/mine"], INSIDE),
    "a name's folder, suggest": (runs_of_a_name, ["suggest", "runs/mine", "-n", "2"], INSIDE),
    "a name's folder, train": (runs_of_a_name, ["train", NAME, "--out", "runs/mine"], INSIDE),
    "a name's folder, init": (runs_of_a_name, ["train", NAME, "init=runs/mine"], INSIDE),
    "a name's folder, report": (runs_of_a_name, ["report", "runs/mine"], INSIDE),
    "no such path": (nothing, ["eval", "runs/nope"], "runs/nope does not exist"),
    "no such kind": (my_folder, ["eval", "out"], "out has neither recipe.json nor config.json"),
    "broken recipe": (broken_recipe, ["train", NAME, "--out", "out"], "recipe.json is not readable"),
    "unknown model": (nothing, ["eval", "cnn4.muscle_digits_11"], "did you mean 'cnn4.muscle_digits_10'"),
    "no target": (nothing, ["eval"], "target"),
    "no folder": (nothing, ["eval", "local-dir:nowhere"], "nowhere is not a folder"),
    "two runs": (lambda f, r: [(f / "q" / "muscle").mkdir(parents=True), (f / "q" / "summary.json").touch()],
                 ["eval", "q"], "holds two runs"),
    "unfinished": (lambda f, r: [(f / "run").mkdir(), shutil.copy(r / "recipe.json", f / "run")], ["eval", "run"],
                   "run is not finished"),
    "truncated": (cards(truncated), ["eval", "card"], "model.safetensors is truncated or damaged"),
    "wrong hash": (cards(wrong_hash), ["eval", "local-dir:card"], "was promised"),
    "not JSON": (cards(lambda c: (c / "config.json").write_text("{")), ["eval", "card"], "config.json is not JSON"),
    "unknown architecture": (cards(unknown_architecture), ["eval", "card"], "'cnn44' is unknown; did you mean 'cnn4'"),
    "foreign": (cards(foreign_config), ["eval", "card"], "no muscle_zoo block"),
    "no repo": (nothing, ["eval", "hf-hub:no/such/repo"], "is not a repo's name; write hf-hub:ORG/NAME"),
    "cwd": (nothing, ["train", NAME, "--out", ".", "--fresh"], "run folder . is the working directory"),
    "fresh, no run": (my_folder, ["train", NAME, "--out", "out", "--fresh"], "out exists and is not a run"),
    "too small": (nothing, ["train", "cnn13.supervised_digits_10"], "8x8 images of digits: it takes 12x12 and more"),
    "fp16 on a CPU": (nothing, ["train", NAME, "--cpu", "--mixed-precision", "fp16"], "fp16 does not run on a CPU"),
    "huge seed": (nothing, ["train", NAME, "seed=99999999999999999999"], "seed=99999999999999999999"),
    "variant": (nothing, ["train", f"{NAME}_typo"], "variant 'typo'; known: finetuned, frozen"),
    "damaged block": (cards(damaged_block), ["eval", "card"], "the muscle_zoo block of config.json is damaged"),
    "foreign row": (foreign_row, ["export", "out", "--to", "out"], "has no ledger row"),
    "unknown info": (nothing, ["info", "cnn4.muscle_digit_10"], "did you mean"),
    "export of nothing": (nothing, ["export", "runs"], "runs is no run folder: it does not exist"),
    "unknown command": (nothing, ["trian"], "trian"),
    "no command": (nothing, [], "COMMAND"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*WRONG_INPUT, *WRONG_DATA])
def test_wrong_input(
    case: str, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, words, says = (WRONG_INPUT | WRONG_DATA)[case]
    monkeypatch.delenv("MUSCLE_ZOO_DATA", raising=False)
    prepare(tmp_path, finished_run)
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(words, capsys)
    assert code == 2
    assert err.count("\n") == 1 and "Traceback" not in err
    assert says in err
    assert out == ""
    assert listing(tmp_path) == before
