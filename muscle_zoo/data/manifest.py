"""Which pictures a run was begun with, so that a later call can name what has changed since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .images import UNKNOWN
from .listing import Listing, first_of, pictures_in_words

Manifest = dict[str, Any]


def manifest_of(listing: Listing) -> Manifest:
    """Each picture's class and size by its name, for the parts of a listing; plain values for a JSON file.

    Example:
        >>> from pathlib import Path
        >>> manifest_of(Listing(Path("nowhere"), ("a", "b"), train=[("a/1.jpg", 0), ("x.jpg", -1)]))["train"]
        {'a/1.jpg': ['a', -1], 'x.jpg': [None, -1]}
    """

    def size(name: str) -> int:
        try:
            return (listing.root / name).stat().st_size
        except OSError:
            return -1

    names = listing.class_names
    return {
        part: {name: [None if label == UNKNOWN else names[label], size(name)] for name, label in pictures}
        for part, pictures in (("train", listing.train), ("validation", listing.validation), ("test", listing.test))
    }


def changes_since(before: Manifest, now: Manifest) -> str:
    """What is different about two manifests, in words that name the first pictures; empty if nothing is."""
    old, new = _flat(before), _flat(now)
    gone, added = [name for name in old if name not in new], [name for name in new if name not in old]
    moved = _moved(gone, added, old, new)
    parts = [
        ("added", [name for name in added if name not in moved.values()]),
        ("gone", [name for name in gone if name not in moved]),
        ("with another label", [f"{a} -> {b}" for a, b in moved.items()] + _relabeled(old, new)),
        ("with other content", [name for name in new if name in old and new[name][2] != old[name][2]]),
    ]
    return "; ".join(f"{pictures_in_words(len(names))} {what} ({first_of(names, 5)})" for what, names in parts if names)


def _flat(manifest: Manifest) -> dict[str, tuple[str, str | None, int]]:
    """Part, class and size of each picture."""
    return {
        name: (part, label, size) for part, pictures in manifest.items() for name, (label, size) in pictures.items()
    }


def _relabeled(old: dict[str, tuple[str, str | None, int]], new: dict[str, tuple[str, str | None, int]]) -> list[str]:
    return [
        f"{name}: {old[name][1] or 'none'} -> {new[name][1] or 'none'}"
        if old[name][0] == new[name][0]
        else f"{name}: of the {old[name][0]} part -> of the {new[name][0]} part"
        for name in new
        if name in old and new[name][:2] != old[name][:2]
    ]


def _moved(
    gone: Sequence[str],
    added: Sequence[str],
    old: dict[str, tuple[str, str | None, int]],
    new: dict[str, tuple[str, str | None, int]],
) -> dict[str, str]:
    """Pictures that went to another folder: of the same file name and size."""
    places: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in added:
        places[name.rpartition("/")[2], new[name][2]].append(name)
    moved = {}
    for name in gone:
        if found := places.get((name.rpartition("/")[2], old[name][2])):
            moved[name] = found.pop(0)
    return moved
