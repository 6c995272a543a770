"""Parts where they are met less often: folders of each class (``cat/train``), or ``unlabeled`` among the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .images import UNKNOWN
from .listing import Labeled, Listing, first_of
from .part_names import LABELED, TEST, UNLABELED, VALIDATION, part_of
from .picture_files import folders_in, loose_pictures


def have_parts_inside(root: Path, classes: Sequence[str]) -> bool:
    """Whether each class's folder holds nothing but parts, one for training among them: ``cat/train``, ``cat/test``."""
    inside = [folders_in(root / name) for name in classes]
    parts = [{part_of(name) for name in names} for names in inside]
    return (
        len(classes) > 1
        and all(None not in of and LABELED in of for of in parts)
        and len(set.union(*parts)) > 1
        and not any(loose_pictures(root / name) for name in classes)
    )


def take_parts_inside(listing: Listing) -> None:
    """Sorts pictures ``CLASS/PART/...`` of the training part into their parts."""
    parts: dict[str, Labeled] = {LABELED: [], UNLABELED: [], VALIDATION: [], TEST: []}
    for name, label in listing.train:
        part = part_of(PurePosixPath(name).parts[1]) or LABELED
        parts[part].append((name, UNKNOWN if part == UNLABELED else label))
    listing.train = parts[LABELED] + sorted(parts[UNLABELED])
    test, validation = parts[TEST], parts[VALIDATION]
    listing.test, listing.validation = (test, validation) if test else (validation, [])


def unlabeled_of(folder: Path) -> list[str]:
    """Folders beside those of classes in a part that hold pictures without a label."""
    names = folders_in(folder)
    others = [name for name in names if part_of(name) == UNLABELED]
    return others if len(names) - len(others) > 1 else []


def note_repeated_folders(listing: Listing) -> None:
    """Asks whether folders that all hold the same folders are classes: parts by unknown names look just so."""
    inside = [frozenset(folders_in(listing.folder / name)) for name in listing.class_names]
    if len(set(inside)) == 1 and len(inside[0]) > 1:
        names = listing.class_names
        listing.add(
            f"{first_of(names)} are taken for classes, and each holds the same folders, {first_of(sorted(inside[0]))}; "
            "if these are the classes, call the others train, validation, test or unlabeled",
            names,
            decide=True,
        )
