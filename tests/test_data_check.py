"""`data check`: everything is said about a folder or CSV, nothing is changed, and the exit code tells of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.check import check_pictures
from muscle_zoo.data.listing import Listing, natural_key
from muscle_zoo.data.manifest import changes_since, manifest_of
from muscle_zoo.data.part_names import part_of
from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.data.twins import groups_of_twins
from tests.conftest import listing, run
from tests.pictures import make_folder, picture
from tests.test_folder import copy_to, put, write


def untidy(root: Path) -> Path:
    """A folder with one of each."""
    make_folder(root, labeled=4, unlabeled=3, test=2)
    for old, new in (("labeled/cat/000", "labeled/dog/copy"), ("labeled/cat/001", "unlabeled/copy")):
        copy_to(root, f"{old}.png", f"{new}.png")
    copy_to(root, "labeled/dog/003.png", "test/dog/copy.png")
    write(root / "labeled/dog/page.jpg", "<!doctype html>404")
    write(root / "unlabeled/empty.png", "")
    write(root / "unlabeled/phone.svg", "<svg/>")
    picture(root / "labeled/cat/@eaDir/1.png", "cat", 1)
    put(root, "loose.png")
    return root


def test_everything_is_said_and_nothing_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = untidy(tmp_path / "my_data")
    before = listing(root)
    code, out, err = run(["data", "check", str(root)], capsys)
    assert code == 1 and err == "" and listing(root) == before
    for said in (
        "labeled/ is the labeled part, unlabeled/ is the unlabeled part, test/ is the test part",
        "2 classes     labeled        test",
        "cat               3           2",
        "in all            7           5",
        "labels=all is 7; as many of each class up to 6, in proportion above",
        "labeled/cat/000.png (cat) = labeled/dog/copy.png (dog)",
        "1 test pictures are labeled training pictures too, the first is test/dog/copy.png = labeled/dog/003.png",
        "labeled/dog/page.jpg (an HTML page)",
        "unlabeled/empty.png (an empty file)",
        "1 .svg (unlabeled/phone.svg)",
        "1 files or folders of systems and tools are left out (labeled/cat/@eaDir)",
        "labeled/cat/001.png = unlabeled/copy.png",
        "24x24 (",
        "PNG RGB (",
        "something needs a decision",
    ):
        assert said in out, said


def test_a_tidy_folder_needs_no_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "my_data")
    for words in ([str(root)], [str(root), "--quick"], ["folder", "--data", str(root)]):
        code, out, err = run(["data", "check", *words], capsys)
        assert code == 0 and err == "" and out.endswith("nothing needs a decision\n")
        assert "cat               6           5" in out and "unlabeled  30 pictures" in out


def test_what_cannot_be_evaluated_needs_a_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "my_data", labeled=1, test=0)
    code, out, _ = run(["data", "check", str(root)], capsys)
    assert code == 1 and "one label of each class at most: nothing can be held out" in out
    picture(root / "labeled" / "cat" / "more.png", "cat", 5)
    code, out, _ = run(["data", "check", str(root)], capsys)
    assert code == 0 and "give fold=dev" in out and "but none of the 1 classes with one label" in out
    assert out.endswith(" to a recipe by its name, train NAME --data FOLDER, give fold=dev\n")


def test_the_last_line_agrees_with_the_advice_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "my_data")
    Image.new("RGB", (40, 30)).save(root / "labeled" / "cat" / "wide.png")
    code, out, _ = run(["data", "check", str(root)], capsys)
    assert code == 0 and "40x30 (1): give image_size" in out and "fold=dev" not in out
    last = out.splitlines()[-1]
    assert last.startswith("nothing needs a decision for `muscle-zoo train FOLDER`") and last.endswith("image_size=24")
    overrides = dict([last.split()[-1].split("=")])
    assert load_dataset("folder", DataConfig(root), int(overrides["image_size"])).info.input_size == (3, 24, 24)


def test_what_is_refused_is_a_decision_and_what_is_not_there_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["data", "check", str(put(tmp_path, "train/a/1.png"))], capsys)
    assert code == 1 and "one class only ('a')" in out and err == ""
    code, out, err = run(["data", "check", str(tmp_path / "gone")], capsys)
    assert code == 2 and "gone does not exist; give your folder or CSV" in err and out == ""
    code, _, err = run(["data", "check", str(tmp_path), "seed=1"], capsys)
    assert code == 2 and "leave seed=1 out" in err


def test_a_class_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    write(root / "c/1.jpg", "x")
    report = check_pictures(root)
    assert report.needs_a_decision and "no labeled picture of class 'c' can be read" in report.problem


PARTS = {
    "labeled": "train Training TRAIN train_set trainset TrainData labeled labelled images_train train2017 train-images",
    "validation": "val valid Validation dev devset val_images validation-set VALID",
    "test": "test testing Test_Set test1 eval holdout held_out imagesTest test data",
    "unlabeled": "unlabeled Unlabelled no_label unlabeled_images unsupervised",
}


def test_names_of_parts() -> None:
    for part, names in PARTS.items():
        assert {name: part_of(name) for name in names.split() if name != "data"} == {
            name: part for name in names.split() if name != "data"
        }
    for name in ("contest", "trains", "cat", "images", "valley", "", "2017", "device", "crash test", "train bus"):
        assert part_of(name) is None, name


def test_natural_order_is_total() -> None:
    names = ["10", "9", "-3", "1.5", "a10", "a9", "a", "B", "01", "1", "", "٣", "x" * 5, "1" * 400]
    ordered = sorted(names, key=natural_key)
    assert ordered == sorted(sorted(names), key=natural_key)
    assert ordered.index("a9") < ordered.index("a10") and ordered.index("9") < ordered.index("10")


def test_twins_are_of_equal_bytes(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"{n}.bmp" for n in range(6)), size=(100, 60))
    copy_to(root, "1.bmp", "same.bmp")
    data = bytearray((root / "2.bmp").read_bytes())
    data[9000] ^= 1  # of equal size and ends
    (root / "nearly.bmp").write_bytes(data)
    names = sorted(path.name for path in root.iterdir())
    assert groups_of_twins(root, names) == [["1.bmp", "same.bmp"]]


def test_a_manifest_names_what_changed(tmp_path: Path) -> None:
    root = put(tmp_path, "labeled/a/1.png", "labeled/a/2.png", "labeled/b/1.png", "labeled/b/3.png", "unlabeled/x.png")
    before = json.loads(json.dumps(manifest_of(find_pictures(root))))  # as it is read back
    assert changes_since(before, manifest_of(find_pictures(root))) == ""
    (root / "unlabeled/x.png").rename(root / "labeled/b/x.png")
    (root / "labeled/a/2.png").unlink()
    put(root, "unlabeled/y.png")
    assert changes_since(before, manifest_of(find_pictures(root))) == (
        "1 picture added (unlabeled/y.png); 1 picture gone (labeled/a/2.png); "
        "1 picture with another label (unlabeled/x.png -> labeled/b/x.png)"
    )
    empty = manifest_of(Listing(root, ("a", "b")))
    assert changes_since(empty, empty) == ""
