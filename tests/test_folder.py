"""The user's own pictures: which are found, in which order, and what is said about those that are wrong."""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muscle_zoo import InputError
from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.picture_folder import list_folder
from muscle_zoo.data.picture_survey import survey

Listed = list[tuple[str, str | None]]


def put(root: Path, *names: str, size: tuple[int, int] = (8, 8)) -> Path:
    """Writes pictures of noise, each another, of a width and height."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return root


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def listed(root: Path) -> tuple[Listed, Listed]:
    """Names and classes of the training and test pictures."""
    listing = list_folder(root)
    train, test = (
        [(name, None if label == -1 else listing.class_names[label]) for name, label in part]
        for part in (listing.train, listing.test)
    )
    return train, test


def refusal(root: Path | None, image_size: int = 0) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset("folder", DataConfig(root=root, stream=True), image_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


LAYOUTS: dict[str, tuple[Listed, Listed]] = {
    # What is to be found, in canonical order; the files are made in another.
    "labeled and the rest": (
        [
            ("labeled/Ant/2.png", "Ant"),
            ("labeled/bee/10.png", "bee"),
            ("labeled/bee/2.png", "bee"),
            ("labeled/bee/more/1.png", "bee"),
            ("labeled/cat/1.png", "cat"),
            ("unlabeled/0.png", None),
            ("unlabeled/deep/er/1.png", None),
            ("unlabeled/z.png", None),
        ],
        [("test/bee/1.png", "bee"), ("test/cat/0.png", "cat"), ("test/cat/1.png", "cat")],
    ),
    "labeled alone": ([("labeled/a/1.png", "a"), ("labeled/b/1.png", "b")], []),
    "train and val": ([("train/a/1.png", "a"), ("train/b/1.png", "b")], [("val/a/1.png", "a"), ("val/b/2.png", "b")]),
    "train and test": ([("train/a/1.png", "a"), ("train/b/1.png", "b")], [("test/b/1.png", "b")]),
    "train and unlabeled": ([("train/a/1.png", "a"), ("train/b/1.png", "b"), ("unlabeled/1.png", None)], []),
    "classes": ([("cat/1.png", "cat"), ("cat/2/1.png", "cat"), ("dog with hat/1.png", "dog with hat")], []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    train, test = LAYOUTS[layout]
    put(tmp_path, *(name for name, _ in reversed(train + test)))
    assert listed(tmp_path) == (train, test)
    for stream in (False, True):
        data = load_dataset("folder", DataConfig(root=tmp_path, stream=stream))
        assert data.info.class_names == tuple(sorted({label for _, label in train if label}))
        assert data.info.input_size == (3, 8, 8)
        assert (data.info.train_size, data.info.test_size) == (len(train), len(test))
        for images, expected in ((data.train, train), (data.test, test)):
            assert images.names == tuple(name for name, _ in expected)
            labels = [data.info.class_names.index(label) if label else -1 for _, label in expected]
            assert images.labels.tolist() == labels


def test_what_is_no_picture_does_not_count(tmp_path: Path) -> None:
    seen = ["A.JPG", "b.Jpeg", "c.png", "d.BMP", "e.gif", "f.tif", "g.TIFF", "h.webp", "i.ppm"]
    put(tmp_path, *(f"labeled/cat/{name}" for name in seen), "labeled/dog/1.png", "unlabeled/1.png")
    put(tmp_path, "labeled/cat/.hidden.png", "labeled/cat/.trash/1.png", "labeled/.git/1.png", "unlabeled/.x/1.png")
    for name in ("labeled/cat/Thumbs.db", "labeled/dog/.DS_Store", "labeled/notes.txt", "unlabeled/jpg", "read.me"):
        write(tmp_path / name, "no picture")
    train, test = listed(tmp_path)
    assert [name for name, label in train if label == "cat"] == [f"labeled/cat/{name}" for name in seen]
    assert train[len(seen) :] == [("labeled/dog/1.png", "dog"), ("unlabeled/1.png", None)]
    assert test == []


def test_pictures_of_a_kind_that_is_not_read_are_told(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/2.jfif", "cat/3.jpe", "dog/1.png")
    for name in ("cat/4.HEIC", "cat/5.heic", "cat/6.svg"):
        write(tmp_path / name, "x")
    text = r"3 pictures of kinds that are not read are left out: 2 .heic, 1 .svg \(.*cat/4.HEIC.*convert them to .jpg"
    with pytest.warns(UserWarning, match=text):
        train, _ = listed(tmp_path)
    assert len(train) == 4


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "b/1.png", "b/sub/2.png", "a/2.png")
    root = put(tmp_path / "data", "a/1.png")
    (root / "b").symlink_to(tmp_path / "elsewhere/b")
    (root / "a/link").symlink_to(tmp_path / "elsewhere/a")
    assert listed(root)[0] == [("a/1.png", "a"), ("a/link/2.png", "a"), ("b/1.png", "b"), ("b/sub/2.png", "b")]


def test_a_link_to_nothing_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"a/{number}.png" for number in range(100)), "b/1.png")
    (root / "a/z.png").symlink_to(tmp_path / "gone.png")
    with pytest.warns(UserWarning, match=r"1 of 102 pictures .* left out: a/z\.png"):
        assert len(load_dataset("folder", DataConfig(root=root, stream=True)).train) == 101


def test_the_root_may_begin_with_a_tilde_and_be_a_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "mine", "a/1.png", "b/1.png")
    write(tmp_path / "mine/list.CSV", "path,label\na/1.png,x\nb/1.png,y\n")
    assert load_dataset("folder", DataConfig(root=Path("~/mine"), stream=True)).info.class_names == ("a", "b")
    assert load_dataset("folder", DataConfig(root="~/mine/list.CSV", stream=True)).info.class_names == ("x", "y")  # type: ignore[arg-type]


def test_width_and_height(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png", size=(12, 9))
    for stream in (False, True):
        data = load_dataset("folder", DataConfig(root=tmp_path, stream=stream))
        assert data.info.input_size == (3, 9, 12)
    assert load_dataset("folder", DataConfig(root=tmp_path, stream=True), image_size=16).info.input_size == (3, 16, 16)
    put(tmp_path, "b/2.png", size=(9, 12))
    assert survey(tmp_path, ["a/1.png", "b/1.png", "b/2.png"]).sizes == {(12, 9): 2, (9, 12): 1}
    text = refusal(tmp_path)
    assert (
        "image_size=0" in text and "2 sizes" in text and "12x9" in text and "9x12" in text and "image_size=64" in text
    )


# --- Errors


def test_no_folder(tmp_path: Path) -> None:
    assert "--data" in refusal(None)
    for root, what in (
        (tmp_path / "gone", "does not exist"),
        (write(tmp_path / "note.odt", "x"), "is a file, not a folder"),
    ):
        text = refusal(root)
        assert f"--data {root} {what}; it must hold labeled/CLASS/" in text


WRONG_FOLDERS = {
    "no classes": (["1.png"], ["no folder of a class with pictures", "two or more are needed"]),
    "one class": (["cat/1.png"], ["one class only ('cat')", "two or more are needed"]),
    "one class labeled": (["labeled/cat/1.png", "unlabeled/1.png"], ["one class only ('cat')"]),
    "labeled without classes": (["labeled/1.png", "unlabeled/1.png"], ["no folder of a class with pictures"]),
    "an empty class": (["labeled/a/1.png", "labeled/b/1.txt"], ["labeled/b holds no pictures", "fill it or delete"]),
    "a hidden picture only": (["a/1.png", "b/.1.png"], ["b holds no pictures"]),
    "an empty test class": (["train/a/1.png", "train/b/1.png", "val/b/1.txt"], ["val/b holds no pictures"]),
    "an unknown class": (
        ["labeled/cat/1.png", "labeled/dog/1.png", "test/cta/1.png"],
        ["test: 'cta' is not a class of", "did you mean 'cat'?"],
    ),
    "an unknown class, nothing near": (
        ["labeled/cat/1.png", "labeled/dog/1.png", "test/zebra/1.png"],
        ["test: 'zebra' is not a class of", "known: cat, dog"],
    ),
    "unlabeled alone": (["unlabeled/1.png"], ["has unlabeled/ and no labeled/"]),
    "train and test without classes": (["train/1.png", "test/1.png"], ["no folder of a class with pictures"]),
    "two training parts": (
        ["train/a/1.png", "train/b/1.png", "Training/a/1.png"],
        ["Training/ and train/", "keep one"],
    ),
    "two tables": (["1.png", "2.png", "x.csv", "y.csv"], ["holds 2 tables (x.csv, y.csv, ...); give the one meant"]),
    "no class of its own": (
        ["a/1.png", "b/1.png", "c/TWIN a/1.png"],
        ["class 'a' has no picture of its own; 1 picture"],
    ),
    "test alone": (["test/a/1.png", "test/b/1.png"], ["has test/ and no labeled/", "it must hold labeled/CLASS/"]),
    "val alone": (["val/a/1.png", "val/b/1.png"], ["has val/ and no labeled/"]),
}


@pytest.mark.parametrize("wrong", WRONG_FOLDERS)
def test_wrong_folder(tmp_path: Path, wrong: str) -> None:
    names, words = WRONG_FOLDERS[wrong]
    for name in names:
        if " " in name and "TWIN" in name:
            copy_to(tmp_path, name.partition("TWIN ")[2], name.partition("TWIN ")[0] + "twin.png")
        elif name.endswith(".png"):
            put(tmp_path, name)
        else:
            write(tmp_path / name, "path,label\n1.png,a\n2.png,b\n" if name.endswith(".csv") else "no picture")
    text = refusal(tmp_path)
    assert str(tmp_path) in text
    for word in words:
        assert word in text


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "b/private/2.png")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything, so no mode would do
    text = refusal(tmp_path)
    assert f"{tmp_path / 'b/private'} cannot be read (Permission denied)" in text and "permissions" in text


def test_no_picture_can_be_read(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg"):
        write(tmp_path / name, "no picture")
    text = refusal(tmp_path, image_size=32)
    assert "none of 2 pictures can be read, the first is a/1.jpg (cannot identify image file" in text
    assert "<_io" not in text  # what Python calls an open file is nothing to the user


@pytest.mark.parametrize("size", [(7, 7), (7, 9), (9, 7), (1025, 8), (8, 1025)])
def test_pictures_of_a_size_that_is_none(tmp_path: Path, size: tuple[int, int]) -> None:
    put(tmp_path, "a/1.png", "b/1.png", size=size)
    text = refusal(tmp_path)
    assert "image_size=0" in text and f"{size[0]}x{size[1]}" in text and "image_size=8 to 1024" in text
    assert load_dataset("folder", DataConfig(root=tmp_path, stream=True), image_size=8).info.input_size == (3, 8, 8)


@pytest.mark.parametrize("image_size", [-1, 1, 7, 1025])
def test_image_size_out_of_range(tmp_path: Path, image_size: int) -> None:
    text = refusal(put(tmp_path, "a/1.png", "b/1.png"), image_size)
    assert f"image_size={image_size} is out of range; give 8 to 1024" in text


# --- Warnings


@pytest.mark.parametrize(
    "names",
    [("Cat", "cat"), ("T shirt", "t-shirt"), ("T_Shirt", "t-shirt"), ("Straße", "strasse"), ("Cat", "cat", "c-a-t")],
)
def test_one_class_in_two_spellings(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path, *(f"{name}/1.png" for name in names), "dog/1.png")
    with pytest.warns(UserWarning) as caught:
        listing = list_folder(tmp_path)
    (text,) = (str(warning.message) for warning in caught)
    assert "two spellings" in text and all(repr(name) in text for name in names) and "dog" not in text
    assert listing.class_names == tuple(sorted([*names, "dog"]))  # they are told apart nevertheless


def test_classes_that_differ_are_no_spellings_of_one(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cats/1.png", "03/1.png", "13/1.png")
    with no_warning():
        list_folder(tmp_path)


def copy_to(root: Path, one: str, other: str) -> None:
    (root / other).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / one, root / other)


def test_the_same_picture_in_labeled_and_test(tmp_path: Path) -> None:
    # BMP: all files are equally long, so that their content decides.
    names = [f"{part}/{label}/{i}.bmp" for part in ("labeled", "test") for label in ("a", "b") for i in (1, 2, 3)]
    put(tmp_path, *names, "unlabeled/1.bmp")
    copy_to(tmp_path, "unlabeled/1.bmp", "test/a/9.bmp")  # without a label: no harm to the accuracy
    copy_to(tmp_path, "labeled/a/1.bmp", "labeled/a/9.bmp")
    with no_warning():
        list_folder(tmp_path)
    copy_to(tmp_path, "labeled/a/2.bmp", "test/b/x.bmp")  # in another class even
    with pytest.warns(UserWarning, match=r"^1 test .* the first is test/b/x\.bmp = labeled/a/2\.bmp; accuracy"):
        list_folder(tmp_path)
    copy_to(tmp_path, "labeled/a/1.bmp", "test/b/y.bmp")  # of two equal ones
    with pytest.warns(UserWarning, match=r"^2 test .* the first is test/b/x\.bmp = labeled/a/2\.bmp; accuracy"):
        list_folder(tmp_path)


def test_parts_may_have_american_names_and_capitals(tmp_path: Path) -> None:
    put(tmp_path, "Labeled/a/1.png", "Labeled/b/1.png", "unlabeled/x.png", "Val/a/1.png")
    listing = list_folder(tmp_path)
    assert [name for name, _ in listing.train] == ["Labeled/a/1.png", "Labeled/b/1.png", "unlabeled/x.png"]
    assert [name for name, _ in listing.test] == ["Val/a/1.png"]
    put(tmp_path, "train/a/1.png")
    with pytest.raises(InputError, match=r"has Labeled/ and train/, which are the same; keep one"):
        list_folder(tmp_path)


def test_what_would_be_lost_in_silence_is_said(tmp_path: Path) -> None:
    put(tmp_path, "labeled/a/1.png", "labeled/b/1.png", "labeled/loose.png")
    with pytest.warns(UserWarning, match=r"1 picture directly in .*labeled \(loose.png\) have no class"):
        assert len(list_folder(tmp_path).train) == 2
    write(tmp_path / "l.csv", "path,label,splt\nlabeled/a/1.png,a,test\nlabeled/b/1.png,b,\n")
    with pytest.warns(UserWarning, match="columns splt are not used"):
        list_folder(tmp_path / "l.csv")


def test_a_link_that_leads_back_is_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "labeled/a/1.png", "labeled/b/1.png", "unlabeled/x.png")
    (tmp_path / "unlabeled" / "back").symlink_to(tmp_path / "unlabeled")
    assert len(list_folder(tmp_path).train) == 3
