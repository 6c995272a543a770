"""The user's own pictures as a CSV lists them; and the listing that a CSV and a folder both become."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, suggest
from .images import UNKNOWN


@dataclass
class Listing:
    """Pictures by name below a folder, each with its class or UNKNOWN, in canonical order.

    Attributes:
        root: The folder.
        class_names: In the order of the classes.
        train: Training pictures: the labeled ones by class, then those without a label.
        test: Test pictures; may be empty.
    """

    root: Path
    class_names: tuple[str, ...]
    train: list[tuple[str, int]] = field(default_factory=list)
    test: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def list_csv(path: Path) -> Listing:
    """Lists the pictures that a CSV names.

    Its first line is ``path,label`` or ``path,label,split``. Paths are relative to the CSV's folder. An empty label
    means that the picture is unlabeled; split is ``train`` (or empty) or ``test``.

    Raises:
        InputError: It is not there, is no such CSV, or names a picture that does not exist or comes twice.
    """
    rows = _read_rows(path)
    root, names = _name_pictures(path, rows)
    class_names = tuple(sorted({row.label for row in rows if row.label}))
    trained_classes = {row.label for row in rows if row.label and row.split != "test"}
    listing = Listing(root, class_names)
    for row, name in zip(rows, names, strict=True):
        if row.split not in ("", "train", "test") or (row.split == "test" and not row.label):
            raise InputError(
                f"{path} line {row.line}: split={row.split!r} label={row.label!r}; "
                "write train or test, test with a label"
            )
        if row.label and row.label not in trained_classes:
            raise InputError(
                f"{path} line {row.line}: class {row.label!r} has no training picture; "
                f"{suggest(row.label, trained_classes)}"
            )
        label = class_names.index(row.label) if row.label else UNKNOWN
        (listing.test if row.split == "test" else listing.train).append((name, label))
    # Canonical order: by class, then by name, those without a label last. The order of the lines does not count.
    listing.train.sort(key=lambda item: (item[1] == UNKNOWN, item[1], item[0]))
    listing.test.sort(key=lambda item: (item[1], item[0]))
    return listing


def _read_rows(path: Path) -> list[_Row]:
    """The rows of a CSV with the right columns; what they say is not looked at."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(columns):
                raise InputError(
                    f"{path}: the first line is {','.join(columns)!r}; it must be path,label or path,label,split"
                )
            if unused := set(columns) - {"path", "label", "split"}:
                warnings.warn(f"{path}: columns {', '.join(sorted(unused))} are not used", stacklevel=5)
            reader.fieldnames = columns
            cells = [(reader.line_num, {key: (row[key] or "").strip() for key in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label in UTF-8") from None
    if not cells:
        raise InputError(f"{path} has no rows; write one for each picture below path,label")
    return [_Row(line, row["path"], row["label"], row.get("split", "")) for line, row in cells]


def _name_pictures(path: Path, rows: Sequence[_Row]) -> tuple[Path, list[str]]:
    """The folder that all pictures of a CSV are below, and the path of each below it.

    That is the CSV's own folder; where a picture lies elsewhere, the common parent of all. The names are written into
    split.json, which is published with a checkpoint, so they never say where on the disk that folder is.
    """
    root = path.parent
    files = [_find_file(path, row) for row in rows]
    below = [_path_below(root, file) for file in files]
    names = [name for name in below if name is not None]
    if len(names) < len(files):
        places = [_resolve_folder(root / file) for file in files]
        root = _common_folder(path, places)
        names = [place.relative_to(root).as_posix() for place in places]
    lines: dict[str, int] = {}
    for row, name in zip(rows, names, strict=True):
        if name in lines:
            raise InputError(f"{path} line {row.line}: {row.path!r} comes a second time; keep one")
        lines[name] = row.line
    return root, names


def _find_file(path: Path, row: _Row) -> Path:
    """A row's picture: a whole path, or one below the CSV's folder."""
    file = Path(row.path)
    if "\\" in row.path and not (path.parent / file).is_file():  # written on Windows
        file = Path(row.path.replace("\\", "/"))
    if not (path.parent / file).is_file():
        raise InputError(f"{path} line {row.line}: {row.path!r} does not exist; paths are relative to {path.parent}")
    return file


def _path_below(root: Path, file: Path) -> str | None:
    """The path of a picture below a folder, with forward slashes; None if it does not lie there."""
    if not file.is_absolute() and ".." not in file.parts:
        return file.as_posix()  # as it is written, for links inside the folder keep their names
    for folder in (root.absolute(), root.resolve()):  # either may be what the CSV's author saw
        for place in (file, _resolve_folder(root / file)):
            if ".." not in place.parts and place.is_relative_to(folder):
                return place.relative_to(folder).as_posix()
    return None


def _resolve_folder(file: Path) -> Path:
    """A file by the real path of its folder; the file itself may be a link, and two links are two pictures."""
    return file.parent.resolve() / file.name


def _common_folder(path: Path, places: Sequence[Path]) -> Path:
    try:
        common = Path(os.path.commonpath([place.parent for place in places]))
    except ValueError:  # two drives of Windows
        common = Path(places[0].anchor)
    if common == Path(common.anchor):
        raise InputError(
            f"{path}: its pictures have no folder in common but {common}, so their names would be whole paths, and "
            "names are published; put them, or links to them, into one folder"
        )
    return common
