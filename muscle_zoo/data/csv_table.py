"""A table of pictures as people's programs write it: encoding, separator and names of columns are found out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from . import label_studio
from .picture_files import is_file_or_missing

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl")
# What the columns may be called, without blanks, underscores and plurals; the first that is there is taken.
COLUMNS = {
    "path": (
        *(
            "path",
            "file",
            "filename",
            "filepath",
            "image",
            "imagepath",
            "imagefile",
            "imagename",
            "imagefilename",
            "img",
        ),
        *("imgpath", "imgname", "imgfile", "picture", "picturepath", "picturename", "photo", "photopath", "fname"),
        *("relativepath", "fullpath", "uri", "imageid", "imgid", "pictureid", "id"),
    ),
    "label": (
        *("label", "class", "classname", "labelname", "category", "categoryname", "target", "y", "classlabel", "tag"),
        *("groundtruth", "gt", "annotation", "species", "breed", "diagnosis", "dx", "classid", "labelid", "categoryid"),
        "targetid",
    ),
    "adds_to": ("addsto",),
    "split": ("split", "set", "subset", "partition", "part", "usage", "phase", "dataset", "datasplit", "splitname"),
}


@dataclass(frozen=True)
class Cells:
    """What a table says of one picture."""

    source: Path
    line: int
    path: str
    label: str
    split: str = ""
    adds_to: str = ""  # see added_labels.py

    @property
    def place(self) -> str:
        """Where it says so."""
        return f"{self.source} line {self.line}"


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        rows: Those that say anything.
        understood: How it was read, where that is not a plain CSV of path,label,split in UTF-8.
        unused: Names of the other columns.
        blank: How many rows have nothing but separators.
    """

    rows: list[Cells]
    understood: str
    unused: tuple[str, ...] = ()
    blank: int = 0


def read_table(path: Path, guess: bool = True) -> Table:
    """Reads a CSV, TSV or JSONL file of pictures and labels, or an export of Label Studio.

    Args:
        path: The file.
        guess: Take columns of any names where the cells of one are files, and there is one other.

    Raises:
        InputError: It cannot be read, has no columns of pictures and labels, or no rows.
    """
    try:
        if not is_file_or_missing(path):
            raise OSError("not a file, but a folder, a pipe, a socket or a device")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label") from None
    text, encoding = _decode(data)
    if path.suffix.lower() == ".jsonl":
        return _from_lines(path, text, guess)
    if path.suffix.lower() == label_studio.SUFFIX:
        return _table(
            path, label_studio.HEADER, label_studio.rows_of_tasks(path, text), ["Label Studio's tasks"], False
        )
    text, stated = _without_separator_line(text)
    separator = stated or _separator(text)
    try:
        lines = [
            (number, row) for number, row in _numbered(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
        ]
    except csv.Error as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label") from None
    while lines and (not any(cell.strip() for cell in lines[0][1]) or lines[0][1][0].lstrip().startswith("#")):
        lines.pop(0)  # blank lines and remarks before the names of the columns
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    words = [] if encoding == "UTF-8" else [f"in {encoding}"]
    words += [] if separator == "," else [f"separated by {_SEPARATORS[separator]}"]
    return _table(path, header, lines[1:], words, guess)


def _numbered(reader: object) -> list[tuple[int, list[str]]]:
    return [(reader.line_num, row) for row in reader]  # type: ignore[attr-defined]


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _decode(data: bytes) -> tuple[str, str]:
    """Text, and its encoding: as its first bytes say, else UTF-8, else that of Windows in Western Europe."""
    for mark, codec, name in (
        (b"\xff\xfe\x00\x00", "utf-32", "UTF-32"),
        (b"\x00\x00\xfe\xff", "utf-32", "UTF-32"),
        (b"\xff\xfe", "utf-16", "UTF-16"),
        (b"\xfe\xff", "utf-16", "UTF-16"),
    ):
        if data.startswith(mark):
            return data.decode(codec, "replace"), name
    for offset, codec in ((1, "utf-16-le"), (0, "utf-16-be")):  # without a mark every other byte of letters is 0
        if len(data) >= 4 and data[offset:200:2].count(0) > 0.8 * len(data[offset:200:2]):
            return data.decode(codec, "replace"), "UTF-16"
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), "Windows-1252"


def _without_separator_line(text: str) -> tuple[str, str]:
    """A table without Excel's first line ``sep=;``, and what that says."""
    match = re.match(r"\s*\"?sep=(.)\"?[\r\n]+", text)
    return (text[match.end() :], match[1]) if match else (text, "")


def _separator(text: str) -> str:
    """The separator that gives columns of pictures and labels; else the one that the first line has most often."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for separator in _SEPARATORS:
        header = next(csv.reader([first], delimiter=separator), [])
        if {"path", "label"} <= set(_roles(header)):
            return separator
    return max(_SEPARATORS, key=first.count) if any(s in first for s in _SEPARATORS) else ","


def _plain(name: str) -> str:
    """A column's name without blanks, signs and the plural's s."""
    plain = re.sub(r"[\W_]+", "", name).lower()
    return plain if plain in ("class", "species", "diagnosis") else plain.removesuffix("s")


def _roles(header: Sequence[str]) -> dict[str, int]:
    """Which column is the path, the label and the split."""
    plain = [_plain(name) for name in header]
    roles: dict[str, int] = {}
    for role, known in COLUMNS.items():
        for name in known:
            if name in plain and plain.index(name) not in roles.values():
                roles[role] = plain.index(name)
                break
    return roles


def _table(
    path: Path, header: list[str], lines: Sequence[tuple[int, list[str]]], words: list[str], guess: bool
) -> Table:
    roles = _roles(header)
    if guess and not {"path", "label"} <= set(roles):
        if header and any(_is_file(path, cell) for cell in header):  # the first line is a row already
            lines, header = [(1, header), *lines], [f"column {at}" for at in range(1, len(header) + 1)]
        roles = _roles_by_content(path, header, lines) or roles
    if not {"path", "label"} <= set(roles):
        missing = " and no ".join(role for role in ("path", "label") if role not in roles)
        raise InputError(
            f"{path}: the first line is {','.join(header)!r}, which has no {missing}; it must be path,label or "
            "path,label,split, or other common names of these; rename the columns meant"
        )
    named = {role: header[at] for role, at in roles.items()}
    if other := [f"{role} is {name!r}" for role, name in named.items() if name.strip().lower() != role]:
        words = [*words, ", ".join(other)]
    unused = tuple(name for at, name in enumerate(header) if at not in roles.values() and name)
    rows, blank = [], 0
    for line, cells in lines:
        values = {role: cells[at].strip() if at < len(cells) else "" for role, at in roles.items()}
        if any(cell.strip() for cell in cells):
            if beyond := [cell for cell in cells[len(header) :] if cell.strip()]:
                raise InputError(
                    f"{path} line {line} has more cells than the first line ({beyond[0]!r}); put what has a separator "
                    "in it into quotes"
                )
            rows.append(
                Cells(path, line, values["path"], values["label"], values.get("split", ""), values.get("adds_to", ""))
            )
        else:
            blank += bool(cells)
    if not rows:
        raise InputError(f"{path} has no rows; write one for each picture below path,label")
    return Table(rows, "; ".join(words), unused, blank)


def _roles_by_content(path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> dict[str, int]:
    """Columns of other names: the one whose cells are files is the path, and a single other one is the label."""
    sample = [cells for _, cells in lines[:20] if any(cell.strip() for cell in cells)]
    files = [
        at
        for at in range(len(header))
        if sample and all(at < len(cells) and _is_file(path, cells[at]) for cells in sample)
    ]
    roles = _roles(header)
    if len(files) != 1:
        return {}
    others = [at for at in range(len(header)) if at != files[0] and header[at] and at != roles.get("split")]
    label = roles.get("label", others[0] if len(others) == 1 else None)
    if label is None:
        return {}
    return {"path": files[0], "label": label} | ({"split": roles["split"]} if "split" in roles else {})


def _is_file(table: Path, cell: str) -> bool:
    """Whether a cell is the path of a file beside the table."""
    try:
        return bool(cell.strip()) and (table.parent / cell.strip()).is_file()
    except (OSError, ValueError):
        return False


def _from_lines(path: Path, text: str, guess: bool) -> Table:
    """JSON, an object a line, as the Hugging Face Hub's metadata.jsonl."""
    objects: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{path} line {number} is no JSON object; write one for each picture, with path and label")
        objects.append((number, value))
    header = list(dict.fromkeys(key for _, value in objects for key in value))
    lines = [
        (number, ["" if value.get(key) is None else str(value[key]) for key in header]) for number, value in objects
    ]
    return _table(path, header, lines, ["JSON lines"], guess)
