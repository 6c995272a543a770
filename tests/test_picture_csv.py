"""The user's own pictures in a CSV: which are listed, under which names, and what is said about a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.picture_folder import list_folder
from tests.test_folder import copy_to, listed, put, refusal, write


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return put(tmp_path, "1.png", "2.png", "in/3.png", "in/4.png", "in/5 5.png")


CSVS = {
    "path and label": "path,label\nin/4.png,dog\n1.png,\n2.png,cat\nin/3.png,cat\n",
    "byte order mark": "\ufeffpath,label\nin/4.png,dog\n1.png,\n2.png,cat\nin/3.png,cat\n",
    "header and cells with blanks and capitals": " Path , LABEL \n in/4.png , dog\n1.png,\n2.png,cat \nin/3.png,cat\n",
    "Windows": "path,label\r\nin/4.png,dog\r\n1.png,\r\n2.png,cat\r\nin/3.png,cat\r\n",
    "other order, quotes, blank line, no comma": 'label,path\ndog,"in/4.png"\n,1.png\n\ncat,2.png\n"cat",./in/3.png',
    "label left out": "path,label\nin/4.png,dog\n1.png\n2.png,cat\nin/3.png,cat\n",
    "split": "path,label,split\nin/4.png,dog,train\n1.png,,\n2.png,cat,\nin/3.png,cat,train\n",
}


@pytest.mark.parametrize("name", CSVS)
def test_csv(pictures: Path, name: str) -> None:
    path = write(pictures / "list.csv", CSVS[name])
    assert listed(path) == ([("2.png", "cat"), ("in/3.png", "cat"), ("in/4.png", "dog"), ("1.png", None)], [])
    data = load_dataset("folder", DataConfig(root=path, stream=True))
    assert data.info.class_names == ("cat", "dog") and data.train.labels.tolist() == [0, 0, 1, -1]


def test_csv_with_test_pictures(pictures: Path) -> None:
    text = "path,label,split\nin/5 5.png,dog,test\n1.png,dog,test\n2.png,cat,test\nin/3.png,dog,\nin/4.png,cat,train\n"
    train, test = listed(write(pictures / "list.csv", text))
    assert train == [("in/4.png", "cat"), ("in/3.png", "dog")]
    assert test == [("2.png", "cat"), ("1.png", "dog"), ("in/5 5.png", "dog")]


def test_csv_paths_are_relative_to_its_folder(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pictures / "in/list.csv", f"path,label\n3.png,a\n../1.png,b\n{pictures / '2.png'},b\n")
    monkeypatch.chdir(pictures)
    train = load_dataset("folder", DataConfig(root=Path("in/list.csv"), stream=False, workers=0), image_size=8).train
    names = dict(zip(train.names, train.labels.tolist(), strict=True))
    assert names == {"in/3.png": 0, "1.png": 1, "2.png": 1}
    original = np.asarray(Image.open(pictures / "1.png"))
    assert train.images[train.names.index("1.png")].permute(1, 2, 0).numpy().tolist() == original.tolist()


# --- Names are published: none says where on the disk the pictures lie.

# The CSV's folder, its rows, and the names; ROOT is the whole path of the folder above. `link` leads to `in`.
NAMED = {
    "below": ("in", ["3.png", "4.png"], ["3.png", "4.png"]),
    "whole paths below": ("in", ["ROOT/in/3.png", "ROOT/in/4.png"], ["3.png", "4.png"]),
    "both": (".", ["1.png", "ROOT/2.png", "in/3.png", "ROOT/in/4.png"], ["1.png", "2.png", "in/3.png", "in/4.png"]),
    "whole paths elsewhere": ("lists", ["ROOT/in/3.png", "ROOT/in/4.png"], ["3.png", "4.png"]),
    "above": ("in", ["../1.png", "../2.png"], ["1.png", "2.png"]),
    "above and below": ("in", ["../1.png", "3.png"], ["1.png", "in/3.png"]),
    "up and down again": ("in", ["../in/3.png", "./4.png"], ["3.png", "4.png"]),
    "above and elsewhere": ("lists", ["../1.png", "ROOT/in/3.png"], ["1.png", "in/3.png"]),
    "a link inside": (".", ["link/3.png", "1.png"], ["link/3.png", "1.png"]),
    "a whole path by a link": (".", ["ROOT/link/3.png", "1.png"], ["link/3.png", "1.png"]),
    "a CSV behind a link": ("link", ["ROOT/in/3.png", "4.png"], ["3.png", "4.png"]),
    "above a link": ("link", ["../2.png", "3.png"], ["2.png", "in/3.png"]),  # as the system reads it: above `in`
    "one name in two folders": ("lists", ["ROOT/in/1.png", "ROOT/1.png"], ["in/1.png", "1.png"]),
}


@pytest.mark.parametrize("relative", [False, True], ids=["whole --data", "relative --data"])
@pytest.mark.parametrize("case", NAMED)
def test_names_say_nothing_of_the_disk(
    pictures: Path, case: str, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows, expected = NAMED[case]
    put(pictures, "in/1.png")
    (pictures / "link").symlink_to("in")
    paths = [row.replace("ROOT", str(pictures)) for row in rows]
    lines = [f"{path},{'ab'[i % 2]}\n" for i, path in enumerate(paths)]
    csv = write(pictures / folder / "list.csv", "path,label\n" + "".join(lines))
    if relative:
        monkeypatch.chdir(pictures)
        csv = csv.relative_to(pictures)
    data = load_dataset("folder", DataConfig(root=csv, stream=True))
    assert sorted(data.train.names) == sorted(expected)
    listing = list_folder(csv)
    for name, path in zip(expected, paths, strict=True):
        assert (listing.root / name).samefile(csv.parent / path)
    for text in (data.info.title, data.info.homepage, *data.train.names):
        assert str(pictures) not in text and not Path(text).is_absolute() and ".." not in Path(text).parts


def test_one_picture_by_two_paths_comes_twice(pictures: Path) -> None:
    for folder, other in (("", f"{pictures}/1.png"), ("in", f"{pictures}/in/../1.png")):
        row = "1.png" if not folder else "../1.png"
        path = write(pictures / folder / "list.csv", f"path,label\n{row},a\n{other},b\n")
        assert f"line 3: '{other}' comes a second time; keep one" in refusal(path)


@pytest.mark.parametrize("common", ["/", None])
def test_pictures_that_have_no_folder_in_common(
    pictures: Path, common: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commonpath(paths: list[Path]) -> str:
        if common is None:  # as Windows does for two drives
            raise ValueError
        return common

    monkeypatch.setattr(os.path, "commonpath", commonpath)
    path = write(pictures / "in/list.csv", "path,label\n../1.png,a\n3.png,b\n")
    text = refusal(path)
    assert "no folder in common but /" in text and "links to them, into one folder" in text


def test_the_order_of_whole_paths_is_that_of_their_names(pictures: Path) -> None:
    rows = [("in/4.png", "b"), ("1.png", "a"), ("in/5 5.png", "a"), ("2.png", ""), ("in/3.png", "b")]
    short = write(pictures / "short.csv", "path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    whole = "".join(f"{pictures / name},{label}\n" for name, label in rows)
    # So a run on whole paths has the split that it would have on short ones.
    assert listed(write(pictures / "whole.csv", "path,label\n" + whole)) == listed(short)


GOOD = "path,label,split\n1.png,cat,\n2.png,dog,\n"
BAD_CSVS = {
    "unknown path": (f"{GOOD}in/x.png,cat,\n", ["line 4", "'in/x.png' does not exist", "relative to"]),
    "no path": (f"{GOOD},cat,\n", ["line 4", "'' does not exist"]),
    "a folder": (f"{GOOD}in,cat,\n", ["line 4", "'in' does not exist"]),
    "path twice": (f"{GOOD}in/3.png,cat,\n2.png,dog,\n", ["line 5", "'2.png' comes a second time", "keep one"]),
    "path twice, spelt otherwise": (f"{GOOD}./2.png,dog,\n", ["line 4", "'./2.png' comes a second time"]),
    "in both parts": (f"{GOOD}2.png,dog,test\n", ["line 4", "'2.png' comes a second time"]),
    "split word": (f"{GOOD}in/3.png,cat,tset\n", ["line 4", "split='tset'", "write train or test"]),
    "test without label": (f"{GOOD}in/3.png,,test\n", ["line 4", "label=''", "test with a label"]),
    "after a blank line": (f"{GOOD}\nin/x.png,cat,\n", ["line 5", "'in/x.png' does not exist"]),
    "no header": ("1.png,cat\n2.png,dog\n", ["'1.png,cat'", "path,label"]),
    "wrong header": ("file,label\n1.png,cat\n2.png,dog\n", ["'file,label'", "path,label,split"]),
    "semicolons": ("path;label\n1.png;cat\n", ["'path;label'", "path,label"]),
    "empty": ("", ["the first line is ''", "path,label"]),
    "not UTF-8": ("path,label\n1.png,café\n2.png,dog\n".encode("latin-1"), ["cannot be read", "path,label in UTF-8"]),
    "UTF-16": ("path,label\n1.png,cat\n2.png,dog\n".encode("utf-16"), ["cannot be read", "path,label in UTF-8"]),
    "one class": ("path,label\n1.png,cat\n2.png,\n", ["one class only ('cat')", "two or more"]),
    "no class": ("path,label\n", ["has no rows"]),
    "a class of test pictures only": (f"{GOOD}in/3.png,cta,test\n", ["cta", "did you mean 'cat'?"]),
}


@pytest.mark.parametrize("wrong", BAD_CSVS)
def test_wrong_csv(pictures: Path, wrong: str) -> None:
    content, words = BAD_CSVS[wrong]
    path = write(pictures / "list.csv", content)
    text = refusal(path)
    assert str(path) in text
    for word in words:
        assert word in text


def test_csv_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    assert "list.csv cannot be read" in refusal(tmp_path / "list.csv")
    (tmp_path / "list.csv").mkdir()
    assert "list.csv cannot be read" in refusal(tmp_path / "list.csv")


def test_the_same_picture_in_a_csv(pictures: Path) -> None:
    copy_to(pictures, "2.png", "copy.png")
    path = write(pictures / "list.csv", "path,label,split\n1.png,a,\n2.png,b,train\ncopy.png,b,test\n")
    with pytest.warns(UserWarning, match=r"the first is copy\.png = 2\.png"):
        list_folder(path)
