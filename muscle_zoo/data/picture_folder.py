"""The user's own pictures in folders: which layout it is, which folders are classes, and what is in them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, suggest
from . import csv_table, table_files
from .added_labels import add_labels, base_of
from .class_parts import (
    have_parts_inside,
    note_repeated_folders,
    take_parts_inside,
    unlabeled_of,
)
from .images import UNKNOWN
from .listing import Labeled, Listing, first_of, pictures_in_words, say_notes
from .part_names import LABELED, TEST, UNLABELED, VALIDATION, is_wrapper, part_of
from .picture_csv import list_csv
from .picture_files import SUFFIXES, Found, folders_in, loose_pictures, pictures
from .shard_pictures import SUFFIX, list_shards
from .tables_inside import note_unread_tables, tables_inside
from .twins import note_twins_of_the_test, settle_contradictions

__all__ = ["LAYOUT", "class_folders", "find_pictures", "list_folder", "pictures_of_classes"]

LAYOUT = "labeled/CLASS/*.jpg and unlabeled/**.jpg (and test/CLASS/*.jpg), CLASS/*.jpg, or a CSV of path,label"


def list_folder(root: Path, strict: bool = False) -> Listing:
    """Lists a user's pictures, and says what there is to be said about them.

    Args:
        root: See :func:`find_pictures`.
        strict: Refuse what somebody has to decide, such as a picture in two classes.

    Raises:
        InputError: It is not there, holds no such thing, has fewer than two classes, or strict refuses something.
    """
    listing = find_pictures(root)
    say_notes(listing.notes, strict, stacklevel=4)
    return listing


def find_pictures(root: Path) -> Listing:
    """Lists a user's pictures.

    Args:
        root: A folder with ``labeled/CLASS/`` and ``unlabeled/`` (both may have folders inside) and perhaps
            ``validation/CLASS/`` and ``test/CLASS/``, by these or the other names of
            :func:`muscle_zoo.data.part_names.part_of`; or with ``CLASS/``; or any of that in one folder more; or a CSV
            file, or a folder with one, see :func:`muscle_zoo.data.picture_csv.list_csv`; or a table that adds labels
            to any of these, see :mod:`muscle_zoo.data.added_labels`; or an export of Label Studio; or the index of
            shards, see :mod:`muscle_zoo.data.shard_pictures`.

    Returns:
        The listing, with notes about all that was left out, understood in one of several ways, or contradicts itself.

    Raises:
        InputError: It is not there, holds no such thing, or has fewer than two classes.
    """
    listing = _list_any(root, ())
    if listing.class_names:
        settle_contradictions(listing)
        note_twins_of_the_test(listing)
    classes = len(listing.class_names)
    if classes < 2:
        what = f"one class only ({listing.class_names[0]!r})" if classes else "no folder of a class with pictures"
        raise InputError(f"--data {root} has {what}; two or more are needed: {LAYOUT}")
    _note_spellings(listing)
    return listing


def _list_any(root: Path, before: tuple[Path, ...]) -> Listing:
    """Lists a folder or a table, of which another one that adds labels to it may have told (``before``)."""
    suffix = root.suffix.lower()
    if suffix == SUFFIX and root.is_file():
        return list_shards(root)
    if suffix in table_files.SUFFIXES and not (root.is_dir() and suffix != ".csv"):
        base = base_of(table := csv_table.read_table(root))
        if base is None:
            return list_csv(root)
        if root.resolve() in before:
            raise InputError(f"{root}: by adds_to it adds labels to itself; write the folder of the pictures there")
        return add_labels(_list_any(base, (*before, root.resolve())), table)
    if not root.is_dir():
        raise InputError(f"--data {root} {_what_it_is(root)}")
    return _list_folders(root)


def _what_it_is(root: Path) -> str:
    """What a path is that is no folder, and what to give in its place."""
    if not root.exists():
        return f"does not exist; it must hold {LAYOUT}"
    if root.name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")):
        return "is an archive; unpack it, and give the folder (shards of WebDataset are given as wds:PATTERN)"
    if root.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather", ".db", ".sqlite", ".h5"):
        return "is a table that is not read; save it as a CSV of path,label"
    if root.suffix.lower() in SUFFIXES:
        return "is one picture; give the folder"
    return f"is a file, not a folder; it must hold {LAYOUT}"


@dataclass(frozen=True)
class _Layout:
    """Which folders of a folder are which part.

    Attributes:
        parts: Folder of each part; labeled is the folder itself where its folders are classes.
        classes: Folders that are classes, if these are beside each other.
        unused: Folders that are neither.
        inside: Whether the parts are folders of each class.
    """

    parts: dict[str, Path]
    classes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    inside: bool = False


def _list_folders(given: Path) -> Listing:
    found = Found()
    root, inside = _unwrap(given, found)
    if (listing := tables_inside(root, only_metadata=True)) is not None:
        return listing
    try:
        layout = _layout(root, found)
        class_names = layout.classes
        if not class_names:
            names, folder = _classes_of(layout.parts[LABELED], root, found)
            class_names = tuple(name for name in names if name not in unlabeled_of(folder))
    except InputError:
        if (listing := tables_inside(root, only_metadata=False)) is not None:
            return listing
        raise
    if len(class_names) < 2 and (listing := tables_inside(root, only_metadata=False)) is not None:
        return listing
    listing = Listing(root, class_names)
    if inside:
        listing.add(f"{given} holds one folder with pictures, {inside}; what is in it is taken")
    if layout.classes and not layout.inside:
        note_repeated_folders(listing)
        note_unread_tables(listing)
    if layout.unused:
        listing.add(
            f"--data {root}: folders {', '.join(layout.unused)} are not used; {LAYOUT}", layout.unused, decide=True
        )
    _fill(listing, layout, found)
    listing.layout = _in_words(layout, bool(listing.validation))
    _note_order(listing)
    listing.notes += found.notes()
    return listing


def _fill(listing: Listing, layout: _Layout, found: Found) -> None:
    """Lists the pictures of each part."""
    root = listing.folder
    labeled = layout.parts[LABELED]
    if not layout.classes:
        labeled = _classes_of(labeled, root, found)[1]
    listing.train = pictures_of_classes(root, labeled, listing.class_names, found=found)
    _note_loose(listing, labeled)
    if layout.inside:
        take_parts_inside(listing)
        return
    unlabeled = [labeled / name for name in unlabeled_of(labeled)] if not layout.classes else []
    unlabeled += [layout.parts[UNLABELED]] if UNLABELED in layout.parts else []
    names = {name: UNKNOWN for folder in unlabeled for name in pictures(root, folder, found)}
    listing.train += sorted(names.items())
    test = _tested(listing, layout.parts, TEST, found)
    validation = _tested(listing, layout.parts, VALIDATION, found)
    listing.test, listing.validation = (test, validation) if test else (validation, [])


def _tested(listing: Listing, parts: dict[str, Path], part: str, found: Found) -> Labeled:
    """Pictures of a part whose classes are those of the labeled one."""
    if part not in parts:
        return []
    present, folder = _classes_of(parts[part], listing.folder, found)
    _note_loose(listing, folder)
    for name in present:
        if name not in listing.class_names:
            labeled = parts[LABELED]
            raise InputError(f"{folder}: {name!a} is not a class of {labeled}; {suggest(name, listing.class_names)}")
    return pictures_of_classes(listing.folder, folder, listing.class_names, present, found)


def _unwrap(given: Path, found: Found) -> tuple[Path, str]:
    """The folder that holds the parts or classes, and the way to it: archives often hold one folder with everything."""
    root = given
    while True:
        filled = [name for name in folders_in(root) if holds_pictures(root / name)]
        if len(filled) != 1 or (part_of(filled[0]) and not is_wrapper(filled[0])) or loose_pictures(root):
            break
        inner = root / filled[0]
        below = [name for name in folders_in(inner) if holds_pictures(inner / name)]
        if len(below) < 2 and not (below and (part_of(below[0]) or _can_unwrap(inner))):
            break
        folders_in(root, found, given)  # only now: what is left out beside it is said
        root = inner
    return root, root.relative_to(given).as_posix() if root != given else ""


def _can_unwrap(folder: Path) -> bool:
    """Whether there are two folders with pictures somewhere below a chain of single ones."""
    for _ in range(8):
        filled = [name for name in folders_in(folder) if holds_pictures(folder / name)]
        if len(filled) != 1 or loose_pictures(folder):
            return len(filled) > 1
        folder = folder / filled[0]
    return False


def holds_pictures(folder: Path) -> bool:
    """Whether a folder or one inside it holds a picture."""
    try:
        if any(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.iterdir()):
            return True
        return any(holds_pictures(folder / name) for name in folders_in(folder)) or bool(_by_content(folder))
    except (OSError, RecursionError):
        return True  # what is wrong with it is said when it is listed


def _by_content(folder: Path) -> list[str]:
    files = [path for path in folder.iterdir() if path.is_file()]
    return pictures(folder, folder) if files else []


def _layout(root: Path, found: Found) -> _Layout:
    """Which folders are parts and which are classes: a class may be called train, test or val too."""
    names = folders_in(root, found)
    part = {name: part_of(name) for name in names}
    if LABELED not in part.values():  # `seg_train seg_test seg_pred`: without the word that all have
        part = {name: part_of(name, among=names) for name in names}
        if not any(of == LABELED and _has_classes(root / name) for name, of in part.items()):
            part = {name: part_of(name) for name in names}
    called: dict[str, list[str]] = defaultdict(list)
    for name, of in part.items():
        if of is not None:
            called[of].append(name)
    others = [name for name in names if part[name] is None]
    filled = [name for name in others if holds_pictures(root / name)]
    labeled = [name for name in called[LABELED] if _has_classes(root / name) and not _is_beside(root, name, filled)]
    unlabeled = called[UNLABELED]
    if labeled:
        parts = {LABELED: labeled, UNLABELED: unlabeled, VALIDATION: called[VALIDATION], TEST: called[TEST]}
        return _Layout(_one_each(root, parts), unused=tuple(others))
    tests = {part: [name for name in called[part] if _repeats(root / name, others)] for part in (VALIDATION, TEST)}
    classes = [name for name in names if name not in (*unlabeled, *tests[VALIDATION], *tests[TEST])]
    if not others and any(called.values()):
        first = next(name for name in names if part[name] is not None)
        if called[LABELED]:  # it holds no folders of classes: that is said as of any other folder
            return _Layout({LABELED: root / called[LABELED][0]})
        raise InputError(f"--data {root} has {first}/ and no labeled/; it must hold {LAYOUT}")
    beside = _one_each(root, {UNLABELED: unlabeled, **tests})
    inside = not beside and have_parts_inside(root, classes)
    return _Layout({LABELED: root, **beside}, tuple(classes), inside=inside)


def _has_classes(folder: Path) -> bool:
    """Whether a folder holds folders; empty ones count, for what is wrong with them is to be said."""
    return bool(folders_in(folder))


def _is_beside(root: Path, name: str, others: Sequence[str]) -> bool:
    """Whether a folder called train is a class like two or more beside it, which have the same folders inside."""
    inside = set(folders_in(root / name))
    return sum(bool(inside & set(folders_in(root / other))) for other in others) > 1


def _repeats(folder: Path, classes: Sequence[str]) -> bool:
    """Whether a folder called test holds folders of the classes beside it, and nothing else."""
    inside = folders_in(folder)
    return bool(inside) and set(inside) <= set(classes)


def _one_each(root: Path, parts: dict[str, list[str]]) -> dict[str, Path]:
    """The folder of each part.

    Raises:
        InputError: Two folders are the same part.
    """
    for names in parts.values():
        if len(names) > 1:
            raise InputError(f"--data {root} has {names[0]}/ and {names[1]}/, which are the same; keep one")
    return {part: root / names[0] for part, names in parts.items() if names}


def _classes_of(folder: Path, root: Path, found: Found) -> tuple[list[str], Path]:
    """The classes of a part, and the folder that they are in: ``training_set/training_set/CLASS`` is met too."""
    names = folders_in(folder, found, root)
    while len(names) == 1 and _repeats_its_parent(names[0], folder.name):
        if len(inner := folders_in(folder / names[0])) < 1:
            break
        folder, names = folder / names[0], inner
    return names, folder


def _repeats_its_parent(name: str, parent: str) -> bool:
    return name == parent or is_wrapper(name) or part_of(name) == part_of(parent) is not None


def pictures_of_classes(
    root: Path,
    folder: Path,
    class_names: Sequence[str],
    present: Sequence[str] | None = None,
    found: Found | None = None,
) -> Labeled:
    """Pictures of each class's folder, class by class.

    Args:
        root: What the names are relative to.
        folder: Holds a folder for each class.
        class_names: All classes.
        present: Those that have a folder; all by default.
        found: Takes what else was met.

    Raises:
        InputError: A class's folder has none.
    """
    labeled = []
    for label, name in enumerate(class_names):
        if present is not None and name not in present:
            continue
        names = pictures(root, folder / name, found)
        if not names:
            raise InputError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES)}); fill it or delete it")
        labeled += [(path, label) for path in names]
    return labeled


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in a folder of a published set, sorted; hidden ones do not count."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _in_words(layout: _Layout, validated: bool) -> str:
    """A layout as a person reads it; a validation part that has no test part beside it is what is tested on."""
    called = {part: folder.name for part, folder in layout.parts.items() if not (part == LABELED and layout.classes)}
    words = ["a folder for each class"] if layout.classes else []
    words += ["the parts are folders of each class"] if layout.inside else []
    served = {VALIDATION: VALIDATION if validated else TEST}
    words += [f"{name}/ is the {served.get(part, part)} part" for part, name in called.items()]
    return ", ".join(words)


def _note_loose(listing: Listing, folder: Path) -> None:
    if loose := loose_pictures(folder):
        listing.add(
            f"{pictures_in_words(len(loose))} directly in {folder} ({first_of(loose)}) have no class and are left out",
            loose,
            decide=True,
        )


def _note_order(listing: Listing) -> None:
    if (theirs := tuple(sorted(listing.class_names))) != listing.class_names:
        listing.add(
            f"classes are in natural order ({first_of(listing.class_names, 12)}); torchvision's ImageFolder would "
            f"number them {first_of(theirs, 12)}"
        )


def _note_spellings(listing: Listing) -> None:
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in listing.class_names:
        signs = r"[\s_]+|(?<!^)-+" if re.fullmatch(r"-\d+", name) else r"[\s_-]+"  # -1 is another class than 1
        plain = unicodedata.normalize("NFC", re.sub(signs, "", name)).casefold()
        spellings[plain or name].append(name)
    for names in spellings.values():
        if len(names) > 1:
            shown: Iterable[str] = map(repr, names)
            listing.add(
                f"classes {', '.join(shown)}: one class in two spellings? They count as two", names, decide=True
            )
