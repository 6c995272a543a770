"""A run on one's own pictures, later: pictures that changed, eval without their folder, predict on any file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import listing, run
from tests.pictures import make_folder, picture
from tests.test_user_data import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "my_data")


def add(folder: Path) -> None:
    picture(folder / "labeled" / "cat" / "new.png", "cat", 1)


def relabel(folder: Path) -> None:
    (folder / "labeled" / "cat" / "000.png").rename(folder / "labeled" / "dog" / "moved 000.png")
    (folder / "labeled" / "cat" / "001.png").rename(folder / "labeled" / "dog" / "zz.png")


def move(folder: Path) -> None:
    (folder / "labeled" / "cat" / "005.png").rename(folder / "test" / "cat" / "005.png")


def replace_one(folder: Path) -> None:
    picture(folder / "test" / "dog" / "001.png", "dog", 77, (30, 30))


CHANGES = {
    "added": (add, "1 picture added (labeled/cat/new.png)"),
    "gone and added": (relabel, "2 pictures gone (labeled/cat/000.png, labeled/cat/001.png)"),
    "moved": (move, "1 picture with another label (labeled/cat/005.png -> test/cat/005.png)"),
    "other content": (replace_one, "1 picture with other content (test/dog/001.png)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_says_which_pictures_changed(
    folder: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out), capsys)[0] == 0
    assert run(train(folder, out), capsys)[0] == 0
    CHANGES[change][0](folder)
    before = listing(out)
    code, text, err = run(train(folder, out), capsys)
    assert code == 2 and text == "" and CHANGES[change][1] in err
    assert "--fresh" in err and f"init={out} --out NEW" in err and listing(out) == before
    assert run(train(folder, out, "--fresh"), capsys)[0] == 0


def test_a_finished_run_says_which_labels_of_a_csv_changed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"labeled/{label}/{i:03}.png,{label}," for label in ("cat", "dog") for i in range(4)]
    lines += [f"test/{label}/{i:03}.png,{label},test" for label in ("cat", "dog") for i in range(3)]
    table = folder / "mine.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    words = train(table, tmp_path / "run", "labels=all")
    assert run(words, capsys)[0] == 0
    table.write_text("\n".join(["path,label,split", "labeled/cat/000.png,dog,", *lines[1:]]))
    code, _, err = run(words, capsys)
    assert code == 2 and "1 picture with another label (labeled/cat/000.png: cat -> dog)" in err


def test_eval_knows_where_the_pictures_were(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out), capsys)[0] == 0
    for target in (str(out), str(out / "export"), f"local-dir:{out / 'export'}"):
        code, text, err = run(["eval", target, "--json"], capsys)
        assert code == 0 and json.loads(text)["published"]["reproduced"]
        assert f"note: on the pictures that {out} was trained with: {folder.resolve()}" in err
    folder.rename(tmp_path / "moved")
    code, _, err = run(["eval", str(out)], capsys)
    assert code == 2 and "which does not exist now; say where it is (--data)" in err
    assert run(["eval", str(out), "--data", str(tmp_path / "moved")], capsys)[0] == 0
    (out / "status.json").unlink()
    code, _, err = run(["eval", f"local-dir:{out / 'export'}"], capsys)
    assert code == 2 and "say which folder (--data my_data)" in err


def test_predict_goes_on_after_bad_files_and_counts_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train(folder, tmp_path / "run"), capsys)[0] == 0
    new = folder / "test" / "cat"
    (new / "page.jpg").write_text("<html>")
    (new / "empty.png").write_bytes(b"")
    (new / "004.png").rename(new / "no suffix")
    code, out, err = run(["predict", str(tmp_path / "run"), str(new), "--topk", "1", "--cpu"], capsys)
    assert code == 1 and out.count(" %") == 5
    assert (
        "page.jpg cannot be read (an HTML page); skipped" in err and "empty.png cannot be read (an empty file)" in err
    )
    assert err.endswith("error: 2 of 7 pictures cannot be read\n") and "told by the content" in err


def test_a_validation_part_is_what_fold_validation_evaluates_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "mine")
    for number in range(3):
        picture(root / "valid" / "dog" / f"{number}.png", "dog", 700 + number)
    for fold, number in (("test", 10), ("validation", 3)):
        out = tmp_path / fold
        assert run(train(root, out, f"fold={fold}"), capsys)[0] == 0
        row = json.loads((out / "status.json").read_text())["row"]
        split = json.loads((out / "split.json").read_text())
        assert row["n_test"] == number and split["fold"] == fold and split["unlabelled"]["count"] == 42
        assert run(["eval", str(out)], capsys)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["labels.cvs"], "labels.cvs does not exist; did you mean 'labels.csv'?"),
        (["petss"], "petss does not exist; did you mean 'pets'?"),
        (["pets", "--methods", "muscle", "fixmach"], "methods are joined by commas; write muscle,fixmach"),
        (["pets", "--methods", "muscle,fixmach"], "did you mean 'fixmatch'"),
        (["pets", "steps=-5"], "steps=-5 is out of range"),
    ],
)
def test_what_was_mistyped_is_named(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_folder(tmp_path / "pets", labeled=2, unlabeled=2, test=0)
    (tmp_path / "labels.csv").write_text("path,label\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(["train", *words, "--cpu"], capsys)
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()
