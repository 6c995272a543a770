"""Folders as people have them: names of parts and classes, what tools leave behind, links, suffixes, twins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.picture_folder import find_pictures
from tests.test_folder import copy_to, put, write

# What to make, and what is to be found: class of each training, validation and test picture.
KINDS_OF_FOLDERS: dict[str, tuple[list[str], dict[str, list[str]], str]] = {
    "train val test": (
        ["train/a/1", "train/b/1", "val/a/1", "test/b/1"],
        {"train": ["train/a/1 a", "train/b/1 b"], "validation": ["val/a/1 a"], "test": ["test/b/1 b"]},
        "",
    ),
    "training valid testing unlabelled": (
        ["Training/a/1", "Training/b/1", "valid/a/1", "testing/b/1", "Unlabelled/x/1"],
        {
            "train": ["Training/a/1 a", "Training/b/1 b", "Unlabelled/x/1 -"],
            "validation": ["valid/a/1 a"],
            "test": ["testing/b/1 b"],
        },
        "",
    ),
    "train dev": (
        ["train/a/1", "train/b/1", "dev/b/1"],
        {"train": ["train/a/1 a", "train/b/1 b"], "test": ["dev/b/1 b"]},
        "",
    ),
    "sets that say what they are twice": (
        ["training_set/training_set/a/1", "training_set/training_set/b/1", "test_set/test_set/b/1"],
        {
            "train": ["training_set/training_set/a/1 a", "training_set/training_set/b/1 b"],
            "test": ["test_set/test_set/b/1 b"],
        },
        "",
    ),
    "a word that all have, twice": (
        ["seg_train/seg_train/a/1", "seg_train/seg_train/b/1", "seg_test/seg_test/b/1"],
        {
            "train": ["seg_train/seg_train/a/1 a", "seg_train/seg_train/b/1 b"],
            "test": ["seg_test/seg_test/b/1 b"],
        },
        "",
    ),
    "classes with a word that all have": (
        ["crash_train/1", "crash_test/1"],
        {"train": ["crash_test/1 crash_test", "crash_train/1 crash_train"]},
        "",
    ),
    "numbers, versions, accents": (
        ["01_train.v2/a/1", "01_train.v2/b/1", "02_validación/a/1", "03-Prueba/b/1", "train_unlabeled/1"],
        {
            "train": ["01_train.v2/a/1 a", "01_train.v2/b/1 b", "train_unlabeled/1 -"],
            "validation": ["02_validación/a/1 a"],
            "test": ["03-Prueba/b/1 b"],
        },
        "",
    ),
    "parts inside each class": (
        ["a/train/1", "a/test/1", "b/train/1", "b/val/1", "b/unlabeled/1"],
        {
            "train": ["a/train/1 a", "b/train/1 b", "b/unlabeled/1 -"],
            "validation": ["b/val/1 b"],
            "test": ["a/test/1 a"],
        },
        "",
    ),
    "unlabeled among the classes of a part": (
        ["train/a/1", "train/b/1", "train/unlabeled/1", "test/b/1"],
        {"train": ["train/a/1 a", "train/b/1 b", "train/unlabeled/1 -"], "test": ["test/b/1 b"]},
        "",
    ),
    "what may be parts by other names": (
        ["first/a/1", "first/b/1", "second/a/1", "second/b/1"],
        {"train": ["first/a/1 first", "first/b/1 first", "second/a/1 second", "second/b/1 second"]},
        "are taken for classes, and each holds the same folders, a, b",
    ),
    "years": (
        ["train2017/a/1", "train2017/b/1", "val2017/b/1"],
        {"train": ["train2017/a/1 a", "train2017/b/1 b"], "test": ["val2017/b/1 b"]},
        "",
    ),
    "classes beside unlabeled": (
        ["cat/1", "dog/1", "unlabeled/1"],
        {"train": ["cat/1 cat", "dog/1 dog", "unlabeled/1 -"]},
        "",
    ),
    "classes beside a test part": (
        ["cat/1", "dog/1", "test/dog/1", "val/cat/1"],
        {"train": ["cat/1 cat", "dog/1 dog"], "test": ["test/dog/1 dog"], "validation": ["val/cat/1 cat"]},
        "",
    ),
    "a class called train": (["bus/1", "car/1", "train/1"], {"train": ["bus/1 bus", "car/1 car", "train/1 train"]}, ""),
    "a class called train, each with the same folders": (
        ["bus/day/1", "car/night/1", "train/day/1", "train/night/1"],
        {"train": ["bus/day/1 bus", "car/night/1 car", "train/day/1 train", "train/night/1 train"]},
        "",
    ),
    "a class called test": (["control/1", "test/1"], {"train": ["control/1 control", "test/1 test"]}, ""),
    "classes called val and dev": (
        ["dev/1", "prod/1", "val/1"],
        {"train": ["dev/1 dev", "prod/1 prod", "val/1 val"]},
        "",
    ),
    "a class called train in a training part": (
        ["train/bus/1", "train/train/1", "test/train/1"],
        {"train": ["train/bus/1 bus", "train/train/1 train"], "test": ["test/train/1 train"]},
        "",
    ),
    "one folder more": (
        ["my data/cat/1", "my data/dog/1"],
        {"train": ["cat/1 cat", "dog/1 dog"]},
        "one folder with pictures, my data;",
    ),
    "two folders more": (
        ["x/y/train/cat/1", "x/y/train/dog/1", "x/y/val/cat/1"],
        {"train": ["train/cat/1 cat", "train/dog/1 dog"], "test": ["val/cat/1 cat"]},
        "one folder with pictures, x/y;",
    ),
    "pictures and boxes": (
        ["images/train/cat/1", "images/train/dog/1", "labels/train/cat/1.txt"],
        {"train": ["train/cat/1 cat", "train/dog/1 dog"]},
        "one folder with pictures, images;",
    ),
    "previews of a network disk": (
        ["labeled/a/1", "labeled/b/1", "labeled/@eaDir/0.png/SYNO", "labeled/a/@eaDir/1.png/SYNO", "@eaDir/x/1"],
        {"train": ["labeled/a/1 a", "labeled/b/1 b"]},
        "3 files or folders of systems and tools are left out (@eaDir, labeled/@eaDir, labeled/a/@eaDir)",
    ),
    "an archive of macOS": (
        ["a/1", "b/1", "a/._1", "a/.DS_Store", "__MACOSX/a/._1", "a/__MACOSX/._y"],
        {"train": ["a/1 a", "b/1 b"]},
        "systems and tools are left out",
    ),
    "a wrapped archive of macOS": (
        ["my/a/1", "my/b/1", "__MACOSX/my/a/._1", "__MACOSX/my/b/._1"],
        {"train": ["a/1 a", "b/1 b"]},
        "one folder with pictures, my;",
    ),
    "Windows": (
        ["a/1", "b/1", "a/Thumbs.db", "b/desktop.ini", "$RECYCLE.BIN/c/1", "System Volume Information/x/1"],
        {"train": ["a/1 a", "b/1 b"]},
        "4 files or folders of systems and tools",
    ),
    "notebooks": (
        ["train/a/1", "train/b/1", "train/.ipynb_checkpoints/1-checkpoint", "train/a/.ipynb_checkpoints/1-checkpoint"],
        {"train": ["train/a/1 a", "train/b/1 b"]},
        "2 files or folders of systems and tools",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_FOLDERS)
def test_kinds_of_folders(tmp_path: Path, kind: str) -> None:
    names, expected, said = KINDS_OF_FOLDERS[kind]
    for name in names:
        plain = Path(name).suffix or Path(name).name == ".DS_Store"
        write(tmp_path / name, "nothing") if plain else put(tmp_path, f"{name}.png")
    listing = find_pictures(tmp_path)
    for part in ("train", "validation", "test"):
        pictures = getattr(listing, part)
        found = [f"{name.removesuffix('.png')} {'-' if of < 0 else listing.class_names[of]}" for name, of in pictures]
        assert found == expected.get(part, []), part
    texts = [note.text for note in listing.notes]
    assert any(said in text for text in texts) if said else not texts
    assert any(note.decide for note in listing.notes) == ("are taken for" in said)


@pytest.mark.parametrize("strange", ["0 1 10 11 2", "class1 class10 class2", "-1 -2 0 1.5 10", "1 01 2", "x1y10 x1y9"])
def test_classes_are_in_natural_order_and_that_is_said(tmp_path: Path, strange: str) -> None:
    names = strange.split()
    put(tmp_path, *(f"{name}/1.png" for name in names))
    natural = {
        "0 1 10 11 2": ["0", "1", "2", "10", "11"],
        "class1 class10 class2": ["class1", "class2", "class10"],
        "-1 -2 0 1.5 10": ["-2", "-1", "0", "1.5", "10"],
        "1 01 2": ["01", "1", "2"],
        "x1y10 x1y9": ["x1y9", "x1y10"],
    }[strange]
    listing = find_pictures(tmp_path)
    assert list(listing.class_names) == natural
    said = [note.text for note in listing.notes if "ImageFolder would number them" in note.text]
    assert len(said) == (natural != sorted(names))
    assert [label for _, label in listing.train] == list(range(len(names)))


def test_links_that_loop_are_not_followed(tmp_path: Path) -> None:
    root = put(tmp_path / "data", *(f"{label}/{n}.png" for label in "abc" for n in (1, 2, 3, 4)))
    for label in "abc":
        (root / label / "up").symlink_to(root)
    (root / "all").symlink_to(root)
    (root / "b" / "round").symlink_to(root / "b" / "round")
    put(tmp_path / "other", "5.png")
    (tmp_path / "other" / "back").symlink_to(root)
    (root / "c" / "other").symlink_to(tmp_path / "other")  # a loop of two links
    listing = find_pictures(root)
    assert len(listing.train) == 13 and [label for _, label in listing.train] == [0] * 4 + [1] * 4 + [2] * 5
    other, note = listing.notes
    assert note.names == ("a/up", "all", "b/up", "c/other/back", "c/up") and "links lead back" in note.text
    assert other.names == ("b/round",)


def test_pictures_are_told_by_their_content(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.png", "b/1.png", "b/2.jpg", "b/3.webp", "b/4.gif", "b/5.bmp", "b/6.tif")
    for old, new in (("1.png", "no suffix"), ("2.jpg", "2.jpg_large"), ("3.webp", "3.jpg.1"), ("4.gif", "4.dat")):
        (root / "b" / old).rename(root / "b" / new)
    (root / "b/5.bmp").rename(root / "b/5.JPG")  # wrong, and read nevertheless
    (root / "b/6.tif").rename(root / "b/6.heic")
    write(root / "b/notes", "BM is how a text may begin")
    write(root / "b/raw.NEF", b"II*\0" + bytes(100))  # a camera's own, with a small preview inside
    os.mkfifo(root / "b/pipe")
    listing = find_pictures(root)
    names = ["b/2.jpg_large", "b/3.jpg.1", "b/4.dat", "b/5.JPG", "b/6.heic", "b/no suffix"]
    assert [name for name, label in listing.train if label == 1] == names
    others, told, pipes, left_out = listing.notes
    assert (others.names, pipes.names) == (("b/notes",), ("b/pipe",)) and not others.decide and not pipes.decide
    assert sorted(told.names) == [name for name in names if "JPG" not in name] and not told.decide
    assert left_out.names == ("b/raw.NEF",) and left_out.decide
    data = load_dataset("folder", DataConfig(root=root))
    assert len(data.train) == 7 and data.info.input_size == (3, 8, 8)


def test_one_picture_in_two_classes_has_no_label(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"labeled/{label}/{n}.png" for label in "abc" for n in (1, 2, 3)), "unlabeled/1.png")
    put(root, "test/a/7.png", "test/b/8.png")
    copy_to(root, "labeled/a/1.png", "labeled/b/copy.png")
    (root / "labeled/c/link.png").symlink_to("../a/2.png")
    copy_to(root, "test/a/7.png", "test/b/7.png")
    copy_to(root, "labeled/c/1.png", "labeled/c/again.png")  # of one class: no contradiction
    listing = find_pictures(root)
    names = {label: [name for name, of in listing.train if of == label] for label in (-1, 0, 1, 2)}
    assert names[0] == ["labeled/a/3.png"] and names[1] == [f"labeled/b/{n}.png" for n in (1, 2, 3)]
    assert names[2] == [f"labeled/c/{n}.png" for n in (1, 2, 3, "again")]
    assert names[-1] == ["labeled/a/1.png", "labeled/a/2.png", "unlabeled/1.png"]
    assert listing.test == [("test/b/8.png", 1)]
    train, test = listing.notes
    twins = ("labeled/a/1.png", "labeled/b/copy.png", "labeled/a/2.png", "labeled/c/link.png")
    assert train.decide and set(train.names) == set(twins)
    assert test.decide and test.names == ("test/a/7.png", "test/b/7.png")


def test_broken_files_that_are_alike_are_no_contradiction(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    for name in ("a/2.jpg", "b/2.jpg"):
        write(tmp_path / name, "<html>no such picture</html>")
    assert find_pictures(tmp_path).notes == []


def test_loose_test_pictures_are_said(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png")
    listing = find_pictures(tmp_path)
    (note,) = listing.notes
    assert listing.test == [] and note.decide and "2 pictures directly in" in note.text
