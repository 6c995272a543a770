"""The user's own pictures in a CSV: which are listed, under which names, and what is said about a wrong one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muscle_zoo import InputError
from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.picture_csv import list_csv
from muscle_zoo.data.picture_folder import list_folder
from muscle_zoo.errors import Notice
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
    assert listed(path) == ([("1.png", None), ("2.png", "cat"), ("in/3.png", "cat"), ("in/4.png", "dog")], [])
    data = load_dataset("folder", DataConfig(root=path, stream=True))
    assert data.info.class_names == ("cat", "dog") and data.train.labels.tolist() == [-1, 0, 0, 1]


def test_csv_with_test_pictures(pictures: Path) -> None:
    text = "path,label,split\nin/5 5.png,dog,test\n1.png,dog,test\n2.png,cat,test\nin/3.png,dog,\nin/4.png,cat,train\n"
    train, test = listed(write(pictures / "list.csv", text))
    assert train == [("in/3.png", "dog"), ("in/4.png", "cat")]
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


@pytest.mark.parametrize("folder", ["", "in"])
def test_one_picture_by_two_paths_and_with_two_labels_has_none(pictures: Path, folder: str) -> None:
    other = f"{pictures}/1.png" if not folder else f"{pictures}/in/../1.png"
    row = "1.png" if not folder else "../1.png"
    rest = "".join(f"{pictures}/{name},{label}\n" for name, label in (("2.png", "a"), ("in/3.png", "b")))
    path = write(pictures / folder / "list.csv", f"path,label\n{row},a\n{other},b\n{rest}")
    with pytest.warns(
        UserWarning, match=r"1 picture listed with two labels, .*: 1\.png is 'a' \(line 2\) and 'b' \(3\)"
    ):
        assert listed(path)[0] == [("1.png", None), ("2.png", "a"), ("in/3.png", "b")]
    with pytest.raises(InputError, match=r"two labels.*or leave --strict out"):
        list_folder(path, strict=True)


def test_one_picture_by_a_link_in_two_classes_has_no_label(pictures: Path) -> None:
    (pictures / "link.png").symlink_to("1.png")
    path = write(pictures / "list.csv", "path,label\n1.png,a\nlink.png,b\n2.png,a\nin/3.png,b\n")
    with pytest.warns(
        UserWarning, match=r"1 picture of the training part in two classes.*1\.png \(a\) = link\.png \(b\)"
    ):
        assert listed(path)[0] == [("2.png", "a"), ("in/3.png", "b"), ("1.png", None)]


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
    "no path is right": ("path,label\nx/1.pnj,cat\ny,dog\n", ["line 2", "'x/1.pnj' does not exist", "relative to"]),
    "in both parts": (f"{GOOD}2.png,dog,test\n", ["line 4", "'2.png' comes a second time", "(line 3); keep one"]),
    "split word": (f"{GOOD}in/3.png,cat,tset\n", ["line 4", "split='tset'", "write train, validation or test"]),
    "test without label": (f"{GOOD}in/3.png,,test\n", ["line 4", "label=''", "test with a label"]),
    "no header": ("cat,x/1.pnj\ndog,y\n", ["'cat,x/1.pnj'", "path,label"]),
    "no label": ("file,age,color\n1.png,3,red\n2.png,4,blue\n", ["'file,age,color'", "has no label", "path,label"]),
    "empty": ("", ["is empty", "path,label"]),
    "one class": ("path,label\n1.png,cat\n2.png,\n", ["one class only ('cat')", "two or more"]),
    "no class": ("path,label\n", ["has no rows"]),
    "a class of test pictures only": (f"{GOOD}in/3.png,cta,test\n", ["cta", "did you mean 'cat'?"]),
    "two labels": (f"{GOOD}in/3.png,cat;dog,\n", ["line 4", "'cat;dog' names 2 classes", "'cat' is", "keep one"]),
    "two labels, one never alone": (f"{GOOD}in/3.png,cat|red,\n", ["'cat|red' names 2 classes", "'cat' is"]),
    "two labels in a list": (f"{GOOD}in/3.png,\"['cat', 'dog']\",\n", ["line 4", "is a list of 2", "keep one"]),
    "lists that share nothing": (
        """path,label\n1.png,"['cat', 'red']"\n2.png,"['dog', 'blue']"\n""",
        ["line 2", "is a list of 2", "one class here"],
    ),
    "a comma without quotes": (f"{GOOD}in/3.png,cat, black,train\n", ["line 4", "more cells", "'train'", "quotes"]),
}


@pytest.mark.parametrize("wrong", BAD_CSVS)
def test_wrong_csv(pictures: Path, wrong: str) -> None:
    content, words = BAD_CSVS[wrong]
    path = write(pictures / "list.csv", content)
    text = refusal(path)
    assert str(path) in text
    for word in words:
        assert word in text


def test_a_class_with_a_comma_or_a_semicolon_in_its_name_is_one_class(pictures: Path) -> None:
    content = 'path,label\n1.png,"cat, tabby"\n2.png,"cat, black"\nin/3.png,red;large\nin/4.png,dog\n'
    listing = list_csv(write(pictures / "list.csv", content))
    assert listing.class_names == ("cat, black", "cat, tabby", "dog", "red;large")
    assert "'red;large': each is the name of one class" in listing.notes[-1].text and not listing.notes[-1].decide


PLAIN = "path,label\nin/4.png,dög\n1.png,\n2.png,cat\nin/3.png,cat\n"
# What other programs write, and what is said about it.
UNDERSTOOD: dict[str, tuple[str, str | bytes, str]] = {
    "semicolons": (".csv", PLAIN.replace(",", ";"), "separated by semicolons"),
    "tabs": (".csv", PLAIN.replace(",", "\t"), "separated by tabs"),
    "tabs, by name": (".tsv", PLAIN.replace(",", "\t"), "separated by tabs"),
    "bars": (".csv", PLAIN.replace(",", "|"), "separated by bars"),
    "Excel's first line": (".csv", "sep=;\n" + PLAIN.replace(",", ";"), "separated by semicolons"),
    "UTF-16": (".csv", PLAIN.encode("utf-16"), "in UTF-16"),
    "UTF-16, tabs, the other end first": (".csv", PLAIN.replace(",", "\t").encode("utf-16-be"), "UTF-16; separated by"),
    "UTF-32": (".csv", PLAIN.encode("utf-32"), "in UTF-32"),
    "Windows in Western Europe": (".csv", PLAIN.encode("cp1252"), "in Windows-1252"),
    "old Macintosh": (".csv", PLAIN.replace("\n", "\r"), ""),
    "file_name": (".csv", PLAIN.replace("path,", "file_name,"), "path is 'file_name'"),
    "image and class": (
        ".csv",
        PLAIN.replace("path,label", "Image,Class Name"),
        "path is 'Image', label is 'Class Name'",
    ),
    "plurals": (".csv", PLAIN.replace("path,label", "filepaths,labels"), "path is 'filepaths', label is 'labels'"),
    "names that only the files explain": (
        ".csv",
        PLAIN.replace("path,label", "was,wie"),
        "path is 'was', label is 'wie'",
    ),
    "no names at all": (".csv", PLAIN.removeprefix("path,label\n"), "path is 'column 1', label is 'column 2'"),
    "other columns": (".csv", PLAIN.replace("\n", ",7\n").replace("label,7", "label,age"), "columns age are not used"),
    "a comma at each end": (".csv", PLAIN.replace("\n", ",\n"), ""),
    "blank lines and a remark first": (".csv", "\n# mine\n" + PLAIN, ""),
    "rows of commas": (".csv", PLAIN + ",\n,,,\n", "2 rows of separators alone are left out"),
    "rows twice": (".csv", PLAIN + "2.png,cat\n./in/3.png,cat\n", "2 rows repeat another (2.png, in/3.png)"),
    "a row of no picture": (
        ".csv",
        PLAIN + "gone.png,cat\n",
        "line 6: 'gone.png' does not exist; 1 such rows are left",
    ),
    "a row without path": (".csv", PLAIN + ",cat\n", "line 6: '' does not exist; 1 such rows are left"),
    "Windows's paths": (".csv", PLAIN.replace("in/", "in\\"), ""),
    "Windows's whole paths": (
        ".csv",
        PLAIN.replace("in/", "C:\\Users\\me\\in\\"),
        "2 pictures not where the table says",
    ),
    "another machine's paths": (".csv", PLAIN.replace("in/", "/home/me/x/in/"), "found below its folder"),
    "without the folder": (".csv", PLAIN.replace("in/", ""), "found below its folder by the end of the path"),
    "without suffixes": (".csv", PLAIN.replace(".png", ""), "4 pictures not where the table says"),
    "in other capitals": (".csv", PLAIN.replace("in/", "IN/"), "found below its folder"),
    "JSON lines": (
        ".jsonl",
        '{"file_name": "in/4.png", "label": "dög"}\n{"file_name": "1.png", "label": null}\n\n'
        '{"file_name": "2.png", "label": "cat"}\n{"file_name": "in/3.png", "label": "cat"}\n',
        "JSON lines; path is 'file_name'",
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_other_programs_write_is_understood_and_said(pictures: Path, name: str) -> None:
    suffix, content, said = UNDERSTOOD[name]
    path = write(pictures / f"list{suffix}", content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = listed(path)
    assert (train, test) == ([("1.png", None), ("2.png", "cat"), ("in/3.png", "cat"), ("in/4.png", "dög")], [])
    texts = [str(warning.message) for warning in caught]
    assert any(said in text for text in texts) if said else not texts


def test_labels_that_are_numbers_are_in_natural_order(pictures: Path) -> None:
    rows = zip(("1.png", "2.png", "in/3.png", "in/4.png"), ("10", "2", "-1", "1"), strict=True)
    path = write(pictures / "list.csv", "path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    assert list_folder(path).class_names == ("-1", "1", "2", "10")


SPLITS = {
    "Train, val and Test": ("Train", "val", "Test"),
    "training, valid, testing": ("training", "valid", "testing"),
    "nothing, dev, eval": ("", "dev", "EVAL"),
}


@pytest.mark.parametrize("words", SPLITS.values(), ids=SPLITS)
def test_spellings_of_splits(pictures: Path, words: tuple[str, str, str]) -> None:
    train, validation, test = words
    rows = f"1.png,a,{train}\n2.png,b,{train}\nin/3.png,a,{validation}\nin/4.png,b,{test}\nin/5 5.png,x,unlabeled\n"
    listing = list_folder(write(pictures / "list.csv", "path,label,Set\n" + rows))
    assert listing.class_names == ("a", "b")
    assert listing.train == [("1.png", 0), ("2.png", 1), ("in/5 5.png", -1)]
    assert listing.validation == [("in/3.png", 0)] and listing.test == [("in/4.png", 1)]
    listing = list_folder(write(pictures / "list.csv", "path,label,Set\n" + rows.replace(f"b,{test}\n", "b,\n")))
    assert listing.validation == [] and listing.test == [("in/3.png", 0)]  # alone it is what is tested on


HUB = "file_name,label\n1.png,a\n2.png,b\n"


def test_the_hubs_metadata_and_the_one_table_of_a_folder(tmp_path: Path) -> None:
    root = put(tmp_path / "one", "1.png", "2.png", "in/3.png")
    write(root / "metadata.csv", HUB)
    with pytest.warns(Notice, match=r"the labels are those of metadata\.csv"):
        assert listed(root) == ([("1.png", "a"), ("2.png", "b")], [])
    root = put(tmp_path / "parts", *(f"{part}/{n}.png" for part in ("train", "validation", "test") for n in (1, 2)))
    for part in ("train", "validation", "test"):
        write(root / part / "metadata.csv", HUB)
    listing = list_folder(root)
    assert listing.train == [("train/1.png", 0), ("train/2.png", 1)]
    assert listing.validation == [("validation/1.png", 0), ("validation/2.png", 1)]
    assert listing.test == [("test/1.png", 0), ("test/2.png", 1)]
    root = put(tmp_path / "kaggle", "images/1.png", "images/2.png")
    write(root / "labels.csv", "id,label\n1,a\n2,b\n")
    assert listed(root)[0] == [("images/1.png", "a"), ("images/2.png", "b")]
    root = put(tmp_path / "captions", "a/1.png", "b/2.png")
    write(root / "metadata.csv", "file_name,text\na/1.png,a cat\nb/2.png,a dog\n")  # no labels: the folders are
    assert listed(root)[0] == [("a/1.png", "a"), ("b/2.png", "b")]


def test_csv_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    assert "list.csv cannot be read" in refusal(tmp_path / "list.csv")
    (tmp_path / "list.csv").mkdir()
    assert "list.csv cannot be read" in refusal(tmp_path / "list.csv")


def test_the_same_picture_in_a_csv(pictures: Path) -> None:
    copy_to(pictures, "2.png", "copy.png")
    path = write(pictures / "list.csv", "path,label,split\n1.png,a,\n2.png,b,train\ncopy.png,b,test\n")
    with pytest.warns(UserWarning, match=r"the first is copy\.png = 2\.png"):
        list_folder(path)
