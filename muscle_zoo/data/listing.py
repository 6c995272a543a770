"""What a folder or a CSV of the user's own pictures becomes: names with classes, and what is to be said about them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, Notice
from .shard_files import PictureRoot

SHOWN = 20  # names in a warning; `data check` gives them all

Labeled = list[tuple[str, int]]  # name below a folder, and class


@dataclass(frozen=True)
class Note:
    """Something about the user's pictures that is not as it should be, or was understood in one of several ways.

    Attributes:
        text: One line, which names the first of the pictures.
        names: All pictures it is about; may be empty.
        decide: Whether somebody has to decide what is right; otherwise it is only said.
    """

    text: str
    names: tuple[str, ...] = ()
    decide: bool = False


@dataclass
class Listing:
    """Pictures by name below a folder, each with its class or UNKNOWN, in an order that no label changes.

    Attributes:
        root: The folder; of pictures in shards one that reads from them.
        class_names: In the order of the classes.
        train: Training pictures.
        test: Test pictures; may be empty.
        validation: Pictures of a validation part beside a test part; may be empty.
        layout: How the folder or CSV was understood, in words.
        notes: What is to be said about it.
        added: Names of the pictures whose label a table added to those of a folder.
    """

    root: PictureRoot
    class_names: tuple[str, ...]
    train: Labeled = field(default_factory=list)
    test: Labeled = field(default_factory=list)
    validation: Labeled = field(default_factory=list)
    layout: str = ""
    notes: list[Note] = field(default_factory=list)
    added: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.root if isinstance(self.root, Path) else self.root.path

    @property
    def names(self) -> list[str]:
        """Names of all pictures, those of training first."""
        return [name for name, _ in self.train + self.validation + self.test]

    def add(self, text: str, names: Iterable[str] = (), decide: bool = False) -> None:
        """Adds a note."""
        self.notes.append(Note(text, tuple(names), decide))


def say_notes(notes: Iterable[Note], strict: bool, stacklevel: int = 3) -> None:
    """Warns about what needs a decision, and says the rest.

    Args:
        notes: In the order in which they are said.
        strict: Refuse what needs a decision.
        stacklevel: As in :func:`warnings.warn`.

    Raises:
        InputError: Something needs a decision, and strict is given.
    """
    for note in notes:
        if note.decide and strict:
            raise InputError(f"{note.text}; mend it, or leave --strict out")
        warnings.warn(note.text, UserWarning if note.decide else Notice, stacklevel=stacklevel)


def first_of(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, as ``a, b, c, ...``."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def pictures_in_words(number: int) -> str:
    """``1 picture`` or ``2 pictures``."""
    return f"{number} picture{'' if number == 1 else 's'}"


def natural_key(name: str) -> tuple[tuple[int, float, str], ...]:
    """Sorts names as people do: ``2`` before ``10``, ``class 2`` before ``class 10``, ``-1`` before ``0``.

    Example:
        >>> sorted(["10", "2", "1"], key=natural_key)
        ['1', '2', '10']
    """
    if re.fullmatch(r"[-+]?\d+(\.\d+)?", name):  # a whole name that is a number, with its sign
        return ((0, float(name), ""), (2, 0.0, name))
    parts = re.split(r"(\d+)", name)
    pieces = [(0, float(part[:300]), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts) if part]
    return (*pieces, (2, 0.0, name))  # the name itself where numbers are equal: 1 and 01
