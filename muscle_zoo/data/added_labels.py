"""Labels that a table adds to the pictures of a folder, or of another table: what `suggest` writes, filled in.

Such a table has a column ``adds_to``, in which each row names that folder, relative to the table's own. It is a source
of pictures like any other: ``--data next.csv`` is all pictures of the folder, with the labels of the table too.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ..errors import InputError
from .csv_table import Cells, Table
from .images import UNKNOWN
from .listing import Labeled, Listing, first_of, natural_key, pictures_in_words


def base_of(table: Table) -> Path | None:
    """The folder or table whose pictures a table adds labels to; None for a table that stands alone.

    Raises:
        InputError: It names several, or one that is not there.
    """
    source = table.rows[0].source
    bases = dict.fromkeys(row.adds_to for row in table.rows)
    if not any(bases):
        return None
    if len(bases) > 1:
        raise InputError(f"{source}: adds_to is {first_of(map(repr, bases))}; write the same folder into every row")
    base = source.parent / next(iter(bases))
    if not base.exists():
        raise InputError(f"{source}: adds_to names {base}, which does not exist; write where the pictures are now")
    return base


def add_labels(base: Listing, table: Table) -> Listing:
    """The pictures of a listing, with the labels that a table adds.

    A label that the picture has already is replaced, and that is said. Pictures of the test and validation parts keep
    theirs. A picture with two labels in the table gets neither.

    Args:
        base: The pictures.
        table: Of paths below the table's folder, or below the listing's.

    Returns:
        Another listing, in the same order.

    Raises:
        InputError: It holds no label, as nobody filled it in yet, or a misspelled class.
    """
    source = table.rows[0].source
    if not any(row.label for row in table.rows):
        raise InputError(f"{source} adds no labels: its column label is empty; fill it in, or give {base.root} alone")
    names = _Names(base)
    said: dict[str, set[str]] = defaultdict(set)
    missing = []
    for row in table.rows:
        if (name := names.find(row)) is None:
            missing.append(row.path)
        elif row.label:
            said[name].add(row.label)
    listing = replace(base, notes=[*base.notes], layout=f"{base.layout}, with the labels of {source.name}")
    trained = {name for name, _ in base.train}
    added = {name: next(iter(labels)) for name, labels in said.items() if len(labels) == 1 and name in trained}
    _note(listing, source, missing, said, trained)
    _fill(listing, added, source)
    return listing


def _note(listing: Listing, source: Path, missing: list[str], said: dict[str, set[str]], trained: set[str]) -> None:
    if missing:
        listing.add(
            f"{source}: {pictures_in_words(len(missing))} not among those of {listing.root} ({first_of(missing)}); "
            "their labels are left out",
            missing,
            decide=True,
        )
    if twice := [name for name, labels in said.items() if len(labels) > 1]:
        shown = first_of(f"{name}: {' and '.join(map(repr, sorted(said[name])))}" for name in twice)
        listing.add(
            f"{source}: {pictures_in_words(len(twice))} with two labels, of which none is taken: {shown}", twice, True
        )
    if tested := [name for name in said if name not in trained]:
        listing.add(
            f"{source}: {pictures_in_words(len(tested))} of the test or validation part ({first_of(tested)}) keep "
            "their labels",
            tested,
            decide=True,
        )


def _fill(listing: Listing, added: dict[str, str], source: Path) -> None:
    """Gives pictures their new labels; the numbers of the classes follow their names.

    The pictures keep their places, by which what was embedded of them is found again.
    """
    before = listing.class_names
    listing.class_names = tuple(sorted({*before, *added.values()}, key=natural_key))
    numbers = {name: number for number, name in enumerate(listing.class_names)}
    _refuse_misspelled(before, added, source)

    def renumbered(pictures: Labeled) -> Labeled:
        return [(name, UNKNOWN if label == UNKNOWN else numbers[before[label]]) for name, label in pictures]

    old = {name: before[label] for name, label in listing.train if label != UNKNOWN}
    changed = [f"{name}: {old[name]} -> {label}" for name, label in added.items() if old.get(name, label) != label]
    new = [name for name in added if name not in old]
    listing.added |= frozenset(new)
    listing.train = [
        (name, numbers[added[name]] if name in added else label) for name, label in renumbered(listing.train)
    ]
    listing.test, listing.validation = renumbered(listing.test), renumbered(listing.validation)
    listing.add(f"{source} adds labels to {pictures_in_words(len(new))} of {listing.root}", new)
    if changed:
        listing.add(f"{source} changes {len(changed)} labels: {first_of(changed)}", changed)


def _refuse_misspelled(known: Sequence[str], added: dict[str, str], source: Path) -> None:
    """Refuses a class of one picture that is called nearly as another is: nothing could be learned of it, or held out.

    Raises:
        InputError: There is such a one.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, label in added.items():
        by_class[label].append(name)
    folded = {other.casefold(): other for other in known}
    letters = {re.sub(r"\d", "", other) for other in known}  # class_2 is not class_1 misspelled
    for label, names in by_class.items():
        near = get_close_matches(label.casefold(), folded, n=1, cutoff=0.8)
        if label not in known and len(names) == 1 and near and re.sub(r"\d", "", label) not in letters:
            raise InputError(
                f"{source}: {names[0]} has the new class {label!r}; did you mean {folded[near[0]]!r}? "
                "If it is a class of its own, label two pictures with it"
            )


class _Names:
    """Finds which picture of a listing a row means."""

    def __init__(self, listing: Listing) -> None:
        self.names = set(listing.names)
        self.roots = (listing.root.absolute(), listing.root.resolve())
        self.by_end: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self.by_end[name.rpartition("/")[2]].append(name)

    def find(self, row: Cells) -> str | None:
        path = row.path.replace("\\", "/") if row.path.replace("\\", "/") in self.names else row.path
        if not path:
            return None
        for name in self._spellings(row.source.parent / path):
            if name in self.names:
                return name
        if path in self.names:
            return path
        alike = [name for name in self.by_end[path.rpartition("/")[2]] if _ends_alike(name, path)]
        return alike[0] if len(alike) == 1 else None

    def _spellings(self, file: Path) -> Iterable[str]:
        for root, place in zip(self.roots, (file.absolute(), file.parent.resolve() / file.name), strict=True):
            yield Path(os.path.relpath(place, root)).as_posix()


def _ends_alike(name: str, path: str) -> bool:
    """Whether one of two paths is the end of the other."""
    ours, theirs = name.split("/"), _parts(path)
    shared = min(len(ours), len(theirs))
    return ours[-shared:] == theirs[-shared:]


def _parts(path: str) -> Sequence[str]:
    return [part for part in path.split("/") if part not in ("", ".", "..")]
