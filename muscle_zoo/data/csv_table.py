"""A table of pictures as people's programs write it: which column is what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, one_line
from . import table_files
from .csv_columns import Lines, labels_of_one_hot, misspelled, split_of_flags
from .csv_labels import tidy_labels
from .table_files import is_file, read_cells

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
    """Reads a table of pictures and labels, of any kind that :func:`muscle_zoo.data.table_files.read_cells` knows.

    Args:
        path: The file.
        guess: Take columns of any names where the cells of one are files, and there is one other.

    Raises:
        InputError: It cannot be read, has no columns of pictures and labels, or no rows.
    """
    cells = read_cells(path, lambda header: {"path", "label"} <= set(_roles(list(header))))
    return _table(path, cells, guess)


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


def _table(path: Path, read: table_files.Cells, guess: bool) -> Table:
    header, lines, words = read.header, read.lines, read.words
    roles = _roles(header)
    if guess and not {"path", "label"} <= set(roles):
        if not read.named and any(is_file(path, cell) for cell in header):  # the first line is a row already
            lines, header = [(1, header), *lines], [f"column {at}" for at in range(1, len(header) + 1)]
        roles = _roles_by_content(path, header, lines) or roles
    blank = sum(bool(cells) for _, cells in lines if not any(cell.strip() for cell in cells))
    lines = _of_one_length(path, header, [(line, cells) for line, cells in lines if any(c.strip() for c in cells)])
    names = {role: header[at] for role, at in roles.items()}
    words = [*words]
    if other := [f"{role} is {name!r}" for role, name in names.items() if name.strip().lower() != role]:
        words.append(", ".join(other))
    columns = {role: [cells[at].strip() for _, cells in lines] for role, at in roles.items()}
    used = _add_columns_of_flags(path, header, lines, columns, words) | set(roles.values())
    _require_columns(path, header, columns)
    if not lines:
        raise InputError(f"{path} has no rows; write one for each picture below path,label")
    columns["label"], more = tidy_labels(columns["label"])
    rows = [
        Cells(path, line, **{role: values[i] for role, values in columns.items()}) for i, (line, _) in enumerate(lines)
    ]
    unused = tuple(name for at, name in enumerate(header) if at not in used and name)
    return Table(rows, "; ".join([*words, *more]), unused, blank)


def _add_columns_of_flags(
    path: Path, header: Sequence[str], lines: Lines, columns: dict[str, list[str]], words: list[str]
) -> set[int]:
    """Adds what columns of 0 and 1 say to those of the split and the label, where there are none; which were used."""
    roles = _roles(header)
    taken = set(roles.values())
    if "split" not in columns and (flags := split_of_flags(header, lines, tuple(taken))):
        columns["split"], used, understood = flags
        words.append(understood)
        taken |= {*used}
    if (
        "path" in columns
        and "label" not in columns
        and (classes := labels_of_one_hot(path, header, lines, tuple(taken)))
    ):
        columns["label"], used, understood = classes
        words.append(understood)
        taken |= {*used}
    return taken - set(roles.values())


def _of_one_length(path: Path, header: Sequence[str], lines: Lines) -> Lines:
    """Rows with as many cells as there are columns.

    Raises:
        InputError: A row has more.
    """
    for line, cells in lines:
        if beyond := [cell for cell in cells[len(header) :] if cell.strip()]:
            raise InputError(
                f"{path} line {line} has more cells than the first line ({beyond[0]!r}); put what has a separator "
                "in it into quotes"
            )
    width = len(header)
    return [(line, [*cells[:width], *[""] * (width - len(cells))]) for line, cells in lines]


def _require_columns(path: Path, header: Sequence[str], columns: Mapping[str, object]) -> None:
    if missing := [role for role in ("path", "label") if role not in columns]:
        raise InputError(
            f"{path}: the first line is {one_line(','.join(header)[:200])!r}, which has no {' and no '.join(missing)}; "
            "it must be path,label or path,label,split, or other common names, or have a column of 0 and 1 for "
            f"each class{misspelled(header, missing) or '; rename the columns meant'}"
        )


def _roles_by_content(path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> dict[str, int]:
    """Columns of other names: the one whose cells are files is the path, and a single other one is the label."""
    sample = [cells for _, cells in lines[:20] if any(cell.strip() for cell in cells)]
    files = [
        at
        for at in range(len(header))
        if sample and all(at < len(cells) and is_file(path, cells[at]) for cells in sample)
    ]
    roles = _roles(header)
    if len(files) != 1:
        return {}
    others = [at for at in range(len(header)) if at != files[0] and header[at] and at != roles.get("split")]
    label = roles.get("label", others[0] if len(others) == 1 else None)
    if label is None:
        return {}
    return {"path": files[0], "label": label} | ({"split": roles["split"]} if "split" in roles else {})
