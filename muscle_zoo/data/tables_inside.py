"""A folder whose labels are in a table inside it: the Hub's metadata.csv, or the one CSV beside the pictures."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from . import text_list
from .csv_paths import FileFinder
from .csv_table import read_table
from .listing import Listing
from .part_names import part_of
from .picture_csv import list_tables
from .picture_files import folders_in
from .table_files import SUFFIXES

_SAMPLE = 20  # rows of which one must name a picture
_METADATA = ("metadata.csv", "metadata.jsonl")  # as the Hugging Face Hub's folders of pictures have it


def tables_inside(root: Path, only_metadata: bool) -> Listing | None:
    """The listing of the tables in a folder; None if there are none with labels.

    Args:
        root: The folder.
        only_metadata: Look for the Hub's metadata.csv or metadata.jsonl alone, in the folder or its parts; otherwise
            for any table in the folder.

    Raises:
        InputError: There are several that do not go together, or one cannot be read.
    """
    if only_metadata:
        tables = [(root / name, "") for name in _METADATA if _has_labels(root / name)][:1]
        if not tables:
            for folder in folders_in(root):
                names = [name for name in _METADATA if _has_labels(root / folder / name)][:1]
                tables += [(root / folder / name, folder) for name in names if part_of(folder)]
    else:
        files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        tables = [(path, "") for path in files if _has_labels(path) and "submission" not in path.stem.lower()]
        if len(tables) > 1:
            if strange := [path.name for path, _ in tables if part_of(path.stem) is None]:
                raise InputError(
                    f"--data {root} holds {len(tables)} tables ({', '.join(strange)}, ...); give the one meant"
                )
            tables = [(path, path.stem) for path, _ in tables]
    if not tables:
        return None
    listing = list_tables(root, root, tables)
    shown = ", ".join(path.relative_to(root).as_posix() for path, _ in tables)
    listing.add(f"--data {root}: the labels are those of {shown}")
    listing.layout = f"{listing.layout} ({shown})"
    return listing


def note_unread_tables(listing: Listing) -> None:
    """Says which tables of pictures lie beside folders of classes, whose names are the labels then."""
    files = sorted(path for path in listing.folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if tables := [path.name for path in files if _has_labels(path)]:
        listing.add(
            f"{', '.join(tables)} in {listing.root} is not read, for the folders are the classes; give it in place of "
            "the folder if it has the labels",
            tables,
        )


def _has_labels(path: Path) -> bool:
    """Whether a table has columns of pictures and labels, and the first pictures are there."""
    if not path.is_file():
        return False
    try:
        rows = read_table(path, guess=path.suffix.lower() in text_list.SUFFIXES).rows
    except InputError:
        return False
    if path.suffix.lower() in (".csv", ".tsv"):
        return not rows[0].adds_to  # one that `suggest` wrote adds labels to the folder that it lies in
    finder = FileFinder(path.parent)  # a list of words, or JSON of a program, may look like a table of pictures
    return not rows[0].adds_to and any(finder.find(row) is not None for row in rows[:_SAMPLE])
