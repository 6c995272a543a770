"""Files that people keep tables in: their encoding, separator and quotes are found out, and cells come of them."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, one_line
from . import label_studio, text_list
from .json_table import table_of_json

Lines = list[tuple[int, list[str]]]

JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".csv", ".tsv", ".tab", *JSON_LINES, *text_list.SUFFIXES, label_studio.SUFFIX)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# What people have their tables in that is no text, by how the file begins.
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "packed by gzip",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
}


@dataclass
class Cells:
    """What a file holds.

    Attributes:
        header: Names of the columns.
        lines: Line number and cells of each row.
        words: How it was read, where that is not as UTF-8 with commas.
        named: Whether the names are known to be such; otherwise the first line may be a row.
    """

    header: list[str]
    lines: Lines
    words: list[str] = field(default_factory=list)
    named: bool = False


def read_cells(path: Path, is_header: Callable[[Iterable[str]], bool]) -> Cells:
    """Reads a CSV, a list of ``path label``, JSON, JSON lines or an export of Label Studio.

    Args:
        path: The file.
        is_header: Whether some cells are names of columns for pictures and labels.

    Raises:
        InputError: It cannot be read, or is no such file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is a folder, pipe, socket or device")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label") from None
    if kind := next((kind for start, kind in _NO_TEXT.items() if data.startswith(start)), ""):
        raise InputError(f"--data {path} is {kind}; save it as a CSV of path,label")
    text, encoding = _decode(data)
    if not text.strip():
        raise InputError(f"--data {path} is empty; write a line for each picture below path,label")
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        return _from_json_lines(path, text)
    if suffix == label_studio.SUFFIX:
        return _from_json(path, text)
    cells = _from_csv(path, text, suffix in text_list.SUFFIXES, is_header)
    cells.words[:0] = [] if encoding == "UTF-8" else [f"in {encoding}"]
    return cells


def _from_csv(path: Path, text: str, is_list: bool, is_header: Callable[[Iterable[str]], bool]) -> Cells:
    text, stated = _without_separator_line(text)
    separator = stated or _separator(text, is_header)
    if not separator or is_list:
        blank = text_list.pairs_of_lines(text.splitlines(), lambda name: is_file(path, name))
        by_blanks = _begun(blank or [], is_header, ["separated by blanks"])
        if blank is not None and (not separator or _has_more_files(path, by_blanks, text, separator)):
            return by_blanks
    quote = "'" if re.match(r"[^\n]*\n\s*'[^'\n]*'\s*[,;\t|]\s*'", text) else '"'
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator or ",", quotechar=quote)
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label") from None
    while lines and (not any(cell.strip() for cell in lines[0][1]) or lines[0][1][0].lstrip().startswith("#")):
        lines.pop(0)  # blank lines and remarks before the names of the columns
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    words = [f"separated by {_SEPARATORS.get(separator, repr(separator))}"] if separator not in ("", ",") else []
    return Cells(header, lines[1:], words)


def _begun(lines: Lines, is_header: Callable[[Iterable[str]], bool], words: list[str]) -> Cells:
    """A list's rows; its first line may name the columns."""
    if lines and is_header(lines[0][1]):
        return Cells(lines[0][1], lines[1:], words)
    return Cells(["path", "label"], lines, words, named=True)


def _has_more_files(path: Path, by_blanks: Cells, text: str, separator: str) -> bool:
    """Whether blanks divide a list better than a separator that is in its first line, and may be in a name."""
    rows = [line.split(separator) for line in text.splitlines() if line.strip()][:20]
    return sum(is_file(path, cells[0]) for _, cells in by_blanks.lines[:20]) > sum(
        any(is_file(path, cell) for cell in row) for row in rows
    )


def is_file(table: Path, cell: str) -> bool:
    """Whether a cell is the path of a file beside the table."""
    try:
        return bool(cell.strip()) and (table.parent / cell.strip()).is_file()
    except (OSError, ValueError):
        return False


def _from_json(path: Path, text: str) -> Cells:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):
            return _from_json_lines(path, text)
        raise InputError(f"{path} is not JSON ({one_line(error)}); {label_studio.REMEDY}") from None
    if label_studio.is_export(value):
        return Cells(label_studio.HEADER, label_studio.rows_of_tasks(path, value), ["Label Studio's tasks"], named=True)
    header, lines, words = table_of_json(path, value)
    return Cells(header, lines, [f"JSON, {words}"], named=True)


def _from_json_lines(path: Path, text: str) -> Cells:
    """An object a line, as the Hugging Face Hub's metadata.jsonl."""
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(f"{path} line {number} is no JSON object; write one for each picture, with path and label")
        objects.append((number, value))
    header, rows, _ = table_of_json(path, [value for _, value in objects])
    lines = [(number, cells) for (number, _), (_, cells) in zip(objects, rows, strict=True)]
    return Cells(header, lines, ["JSON lines"], named=True)


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


def _separator(text: str, is_header: Callable[[Iterable[str]], bool]) -> str:
    """The separator that gives columns of pictures and labels; else the one that the first line has most often."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    for separator in _SEPARATORS:
        if is_header(next(csv.reader([first], delimiter=separator), [])):
            return separator
    return max(_SEPARATORS, key=first.count) if any(s in first for s in _SEPARATORS) else ""
