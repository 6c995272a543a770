"""The user's own pictures as a CSV lists them: its rows become a listing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, suggest
from .csv_paths import FileFinder, name_pictures
from .csv_table import Cells, Table, read_table
from .images import UNKNOWN
from .listing import Listing, first_of, natural_key, pictures_in_words
from .part_names import LABELED, TEST, UNLABELED, VALIDATION, part_of

__all__ = ["Listing", "list_csv", "list_tables"]

MISSING_SHARE = 0.5  # of the rows without a picture, and the paths are relative to another folder


def list_csv(path: Path) -> Listing:
    """Lists the pictures that a CSV names.

    Its first line is ``path,label`` or ``path,label,split``, or other common names of these, see
    :data:`muscle_zoo.data.csv_table.COLUMNS`. Paths are relative to the CSV's folder. An empty label means that the
    picture is unlabeled; split is ``train`` (or empty), ``test``, or another of :func:`part_of`'s words.

    Raises:
        InputError: It is not there, is no such CSV, or most of the pictures it names do not exist.
    """
    return list_tables(path, path.parent, [(path, "")])


def list_tables(named: Path, root: Path, tables: Sequence[tuple[Path, str]]) -> Listing:
    """Lists the pictures of one or several tables.

    Args:
        named: What the user gave, for the errors.
        root: Folder that the pictures lie below.
        tables: Each with the part that its pictures are of where it has no column of it; may be empty.

    Raises:
        InputError: As :func:`list_csv`, or a picture has several labels in one cell.
    """
    read = [(read_table(path), part) for path, part in tables]
    rows = [replace(row, split=row.split or part) for table, part in read for row in table.rows]
    _require_one_label(rows)
    found: list[tuple[Cells, Path]] = []
    missing: list[Cells] = []
    finders = {path.parent: FileFinder(path.parent) for path, _ in tables}
    for row in rows:
        file = finders[row.source.parent].find(row)
        if file is None:
            missing.append(row)
        else:
            inside = row.source.parent.relative_to(root) if row.source.parent != root else Path()
            found.append((row, inside / file))
    _require_most(named, root, missing, len(rows))
    base, names = name_pictures(named, root, [file for _, file in found])
    pictures = [(row, name) for (row, _), name in zip(found, names, strict=True)]
    listing = Listing(base, (), layout=f"a table of {pictures_in_words(len(pictures))}")
    if base != root:
        above = [name for (_, file), name in zip(found, names, strict=True) if file.is_absolute() or ".." in file.parts]
        shown = first_of(above)
        listing.add(f"{pictures_in_words(len(above))} outside {root}, by paths of the table ({shown})", above)
    _note_reading(listing, [table for table, _ in read], missing, [*finders.values()])
    _fill(listing, _each_once(listing, pictures))
    return listing


def _require_one_label(rows: Sequence[Cells]) -> None:
    """Refuses ``cat;dog`` in the place of a label: as a class of its own it would be learned apart from both.

    A name with a separator in it is a class, unless its parts come in other labels, too: all of them for a comma or
    one of ``+ & /``, which names have, any for a semicolon or a bar. A list in brackets is never a name.
    """
    first = {row.label: row for row in rows if row.label}
    having = Counter(part for label in first for part in set(_parts(label)))
    for label, row in first.items():
        parts = _parts(label)
        if len(parts) > 1 and re.fullmatch(r"\[.*\]", label):
            raise InputError(
                f"{row.place}: label={label!r} is a list of {len(parts)}, and a picture is of one class here; keep one "
                "of them in each row, or leave the picture out"
            )
        elsewhere = [part for part in parts if having[part] > 1]
        if len(parts) > 1 and elsewhere and (len(elsewhere) == len(parts) or re.search(r"[;|]", label)):
            raise InputError(
                f"{row.place}: label={label!r} names {len(parts)} classes, for {elsewhere[0]!r} is of other labels, "
                "too, and a picture is of one class here; keep one of them in each row, or leave the picture out"
            )


def _parts(label: str) -> list[str]:
    """The classes that a cell may name: ``cat;dog``, ``cat|dog``, ``cat, dog``, ``cat+dog`` or ``['cat', 'dog']``."""
    separator = next((sign for sign in ("[;|]", ",", r"\+", "&", "/") if re.search(sign, label)), ",")
    parts = re.split(separator, label.strip("[]"))
    return list(dict.fromkeys(part for piece in parts if (part := piece.strip(" '\"")))) or [label]


def _require_most(named: Path, root: Path, missing: Sequence[Cells], total: int) -> None:
    if missing and len(missing) >= MISSING_SHARE * total:
        row = missing[0]
        raise InputError(
            f"{row.place}: {row.path!r} does not exist, nor do {len(missing) - 1} others of {total} pictures; paths "
            f"of {named} are relative to {root}"
        )


def _note_reading(
    listing: Listing, tables: Sequence[Table], missing: Sequence[Cells], finders: Sequence[FileFinder]
) -> None:
    """Says how the tables were understood, and what of them was left out."""
    for table in tables:
        source = table.rows[0].source
        if table.understood:
            listing.add(f"{source} is read so: {table.understood}")
        if table.unused:
            listing.add(f"{source}: columns {', '.join(sorted(table.unused))} are not used")
        if table.blank:
            listing.add(f"{source}: {table.blank} rows of separators alone are left out")
        if names := sorted({repr(row.label) for row in table.rows if re.search(r"[;|]", row.label)}):
            listing.add(f"{source}: {first_of(names)}: each is the name of one class, for no part of it is another's")
    if ends := [path for finder in finders for path in finder.by_their_ends]:
        listing.add(
            f"{pictures_in_words(len(ends))} not where the table says, but found below its folder by the end of the "
            f"path ({first_of(ends)})",
            ends,
        )
    if missing:
        row = missing[0]
        listing.add(
            f"{row.place}: {row.path!r} does not exist; {len(missing)} such rows are left out "
            f"(paths are relative to {row.source.parent})",
            [row.path for row in missing],
            decide=True,
        )


def _each_once(listing: Listing, pictures: Sequence[tuple[Cells, str]]) -> list[tuple[Cells, str]]:
    """Each picture once: rows that repeat another are left out, of those that contradict each other the label is."""
    first: dict[str, Cells] = {}
    repeated: list[str] = []
    contradictory: dict[str, str] = {}
    for row, name in pictures:
        before = first.setdefault(name, row)
        if before is row:
            continue
        if _part(before) != _part(row):
            raise InputError(
                f"{row.place}: {row.path!r} comes a second time, in another part (line {before.line}); keep one"
            )
        if before.label != row.label:
            contradictory.setdefault(
                name, f"{name} is {before.label!r} (line {before.line}) and {row.label!r} ({row.line})"
            )
        repeated.append(name)
    if contradictory:
        listing.add(
            f"{pictures_in_words(len(contradictory))} listed with two labels, which count as having none: "
            f"{first_of(contradictory.values())}",
            contradictory,
            decide=True,
        )
    if alike := [name for name in repeated if name not in contradictory]:
        listing.add(f"{len(alike)} rows repeat another ({first_of(alike)}); each picture counts once", alike)
    kept = []
    for name, row in first.items():
        if name not in contradictory:
            kept.append((row, name))
        elif _part(row) in (LABELED, UNLABELED):
            kept.append((replace(row, label=""), name))
    return kept


def _part(row: Cells) -> str:
    """The part that a row's split stands for.

    Raises:
        InputError: It stands for none.
    """
    part = part_of(row.split) if row.split else LABELED
    if part is None:
        raise InputError(f"{row.place}: split={row.split!r} label={row.label!r}; write train, validation or test")
    return part


def _fill(listing: Listing, pictures: Sequence[tuple[Cells, str]]) -> None:
    """Puts pictures into the parts of a listing, in canonical order."""
    parts = {name: _part(row) for row, name in pictures}
    trained = {row.label for row, name in pictures if row.label and parts[name] == LABELED}
    for row, name in pictures:
        part = parts[name]
        if part in (TEST, VALIDATION) and not row.label:
            raise InputError(f"{row.place}: split={row.split!r} label=''; write train or test, test with a label")
        if row.label and row.label not in trained and part != UNLABELED:
            raise InputError(f"{row.place}: class {row.label!r} has no training picture; {suggest(row.label, trained)}")
    fill_parts(listing, [(name, row.label, parts[name]) for row, name in pictures])


def fill_parts(listing: Listing, pictures: Sequence[tuple[str, str, str]]) -> None:
    """Puts pictures into the parts of a listing, in canonical order, and names its classes.

    Args:
        listing: Of no picture yet.
        pictures: Name, label (empty for none) and part of each; that of test and validation ones is not empty, and
            every label is one of the training part, too.
    """
    labels = {label for _, label, part in pictures if label and part != UNLABELED}
    listing.class_names = tuple(sorted(labels, key=natural_key))
    numbers = {label: number for number, label in enumerate(listing.class_names)}
    has_test = any(part == TEST for *_, part in pictures)
    of_part = {TEST: listing.test, VALIDATION: listing.validation if has_test else listing.test}
    for name, label, part in pictures:
        number = numbers[label] if label and part != UNLABELED else UNKNOWN
        of_part.get(part, listing.train).append((name, number))
    listing.train.sort()  # by name: what was embedded is found again, whichever of them got a label since
    listing.test.sort(key=lambda item: (item[1], item[0]))
    listing.validation.sort(key=lambda item: (item[1], item[0]))
