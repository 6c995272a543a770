"""Published sets of picture files: listed on disk and checked against what was published.

Their licenses forbid passing them on, so there is nothing to download.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, MissingDataError
from .catalog import DataSetInfo
from .drawing import hash_order
from .picture_folder import class_folders, pictures_of_classes

Pictures = list[tuple[str, int]]  # name below a folder, and class
Listed = tuple[Pictures, Pictures]  # training and test pictures


def list_classes(info: DataSetInfo, root: Path, train: str, test: str) -> tuple[Path, Listed]:
    """Lists a published set of pictures in ``TRAIN/CLASS/`` and ``TEST/CLASS/``.

    Args:
        info: Its facts: other classes or numbers of pictures are errors.
        root: Where data sets are; it is found in ``root/NAME`` or root itself.
        train: Folder of the training pictures.
        test: Folder of the test pictures.

    Returns:
        The folder, and the pictures of both parts with their classes.

    Raises:
        InputError: It is not there, or not whole.
    """
    for place in (root / info.name, root):
        if (place / train).is_dir() and (place / test).is_dir():
            names = class_folders(place / train)
            if place == root and names != info.class_names:
                break  # another set
            if names != info.class_names:
                raise InputError(
                    f"{place / train} has {len(names)} folders, not the {info.num_classes} classes of {info.name}"
                )
            if missing := set(names) - set(class_folders(place / test)):
                raise InputError(
                    f"{place / test} has no folder {min(missing)}; sort its pictures into one of each class"
                )
            listed = tuple(pictures_of_classes(place, place / part, names) for part in (train, test))
            check_sizes(info, place, len(listed[0]), len(listed[1]))
            return place, (listed[0], listed[1])
    raise MissingDataError(
        f"{info.name} is not in {root}: put its pictures into {root / info.name / train}/CLASS/ and "
        f"{root / info.name / test}/CLASS/, or say with --data or MUSCLE_ZOO_DATA where they are"
    )


def check_sizes(info: DataSetInfo, place: Path, train: int, test: int) -> None:
    """Compares numbers of images with the published ones.

    Raises:
        InputError: They differ.
    """
    if (train, test) != (info.train_size, info.test_size):
        raise InputError(
            f"{place} holds {train} training and {test} test images, {info.name} has {info.train_size} and "
            f"{info.test_size}; it is not whole: unpack it again"
        )


def list_mini_imagenet(info: DataSetInfo, root: Path) -> tuple[Path, Listed]:
    """Lists mini-ImageNet: ``images/`` and CSVs of ``filename,label``.

    With the usual few-shot CSVs (train.csv, val.csv, test.csv of 64, 16 and 20 classes) each class's first 500 pictures
    in the order of ``sha256("mini_imagenet/test/POSITION")`` are the training pictures, as few-label work splits the
    600 by 500 and 100 (Iscen et al. 2019, arXiv 1904.04717, draw them at random; their draw is not known here). A
    train.csv and test.csv that share their classes are taken as they are.

    Raises:
        InputError: It is not there, or not whole.
    """
    place = next((p for p in (root / info.name, root) if (p / "train.csv").is_file() and (p / "images").is_dir()), None)
    if place is None:
        raise MissingDataError(
            f"{info.name} is not in {root}: put images/, train.csv, val.csv and test.csv (filename,label) into "
            f"{root / info.name}, or say with --data or MUSCLE_ZOO_DATA where they are"
        )
    parts = {part: list(_csv_rows(place, part, info)) for part in ("train", "val", "test")}
    count = Counter(name for rows in parts.values() for name, _ in rows)
    if twice := [name for name, times in count.items() if times > 1]:
        raise InputError(f"{place}: {twice[0]} is listed twice in train.csv, val.csv and test.csv; keep one")
    if {label for _, label in parts["train"]} & {label for _, label in parts["test"]}:
        listed = sorted(parts["train"] + parts["val"]), sorted(parts["test"])
    else:
        rows = sorted((row for part in parts.values() for row in part), key=lambda row: (row[1], row[0]))
        test: set[int] = set()
        for label in range(info.num_classes):
            members = [i for i, row in enumerate(rows) if row[1] == label]
            test |= set(hash_order(f"{info.name}/test", members)[500:])
        listed = [row for i, row in enumerate(rows) if i not in test], [rows[i] for i in sorted(test)]
    listed[0].sort(key=lambda row: (row[1], row[0]))
    listed[1].sort(key=lambda row: (row[1], row[0]))
    check_sizes(info, place, len(listed[0]), len(listed[1]))
    return place, listed


def _csv_rows(place: Path, part: str, info: DataSetInfo) -> Iterator[tuple[str, int]]:
    path = place / f"{part}.csv"
    if not path.is_file():
        return
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); give a CSV of filename,label in UTF-8") from None
    for line, row in enumerate(rows, start=2):
        if row.get("label") not in info.class_names or not row.get("filename"):
            raise InputError(f"{path} line {line}: {row} is not a filename,label of a class of {info.name}")
        name = f"images/{row['filename']}"
        if not (place / name).is_file():
            raise InputError(f"{path} line {line}: {place / name} does not exist; unpack the images again")
        yield name, info.class_names.index(row["label"])
