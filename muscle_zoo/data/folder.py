"""The user's own pictures: folders of classes, or a CSV of path and label."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import InputError, near
from .images import UNKNOWN, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2")
LAYOUT = "labelled/CLASS/*.jpg and unlabelled/**.jpg (and test/CLASS/*.jpg), CLASS/*.jpg, or a CSV of path,label"


@dataclass
class Listing:
    """Pictures by name below a folder, each with its class or UNKNOWN, in canonical order.

    Attributes:
        root: The folder.
        class_names: In the order of the classes.
        train: Training pictures: the labelled ones by class, then those without a label.
        test: Test pictures; may be empty.
    """

    root: Path
    class_names: tuple[str, ...]
    train: list[tuple[str, int]] = field(default_factory=list)
    test: list[tuple[str, int]] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """Lists a user's pictures.

    Args:
        root: A folder with ``labelled/CLASS/`` and ``unlabelled/`` (both may have folders inside) and perhaps
            ``test/CLASS/``; or with ``train/CLASS/`` and perhaps ``test/`` or ``val/``; or with ``CLASS/``; or a CSV
            file, see :func:`list_csv`.

    Returns:
        The listing. A picture that is both labelled and in test, and two spellings of one class, are warned about.

    Raises:
        InputError: It is not there, holds no such thing, or has fewer than two classes.
    """
    if root.suffix.lower() == ".csv":
        listing = list_csv(root)
    else:
        if not root.is_dir():
            what = "is a file, no folder" if root.exists() else "does not exist"
            raise InputError(f"--data {root} {what}; it must hold {LAYOUT}")
        listing = _list_folders(root)
    classes = len(listing.class_names)
    if classes < 2:
        what = f"one class only ({listing.class_names[0]!r})" if classes else "no folder of a class with pictures"
        raise InputError(f"--data {root} has {what}; two or more are needed: {LAYOUT}")
    _warn_about_spellings(listing.class_names)
    _warn_about_duplicates(listing)
    return listing


def _list_folders(root: Path) -> Listing:
    inside = {
        part: root / part for part in ("labelled", "unlabelled", "train", "test", "val") if (root / part).is_dir()
    }
    if inside and "labelled" not in inside and "train" not in inside:
        raise InputError(f"--data {root} has {next(iter(inside))}/ and no labelled/; it must hold {LAYOUT}")
    labelled = inside.get("labelled") or inside.get("train") or root
    class_names = class_folders(labelled)
    listing = Listing(root, class_names, pictures_of_classes(root, labelled, class_names))
    if "unlabelled" in inside:
        listing.train += [(name, UNKNOWN) for name in pictures(root, inside["unlabelled"])]
    if (test := inside.get("test") or inside.get("val")) is not None:
        there = class_folders(test)
        for name in there:
            if name not in class_names:
                raise InputError(f"{test / name} is no class of {labelled}; {near(name, class_names)}")
        listing.test = pictures_of_classes(root, test, class_names, there)
    return listing


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in a folder, sorted; hidden ones do not count."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def pictures_of_classes(
    root: Path, folder: Path, class_names: Sequence[str], there: Sequence[str] | None = None
) -> list[tuple[str, int]]:
    """Pictures of each class's folder, class by class.

    Args:
        root: What the names are relative to.
        folder: Holds a folder for each class.
        class_names: All classes.
        there: Those that have a folder; all by default.

    Raises:
        InputError: A class's folder has none.
    """
    found = []
    for label, name in enumerate(class_names):
        if there is not None and name not in there:
            continue
        names = pictures(root, folder / name)
        if not names:
            raise InputError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES)}); fill it or delete it")
        found += [(path, label) for path in names]
    return found


def pictures(root: Path, folder: Path) -> list[str]:
    """Pictures in a folder and those inside it, sorted, as paths below root with forward slashes.

    Raises:
        InputError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions")

    names = []
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(parent).relative_to(root).as_posix()
        names += [f"{prefix}/{name}" for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(names)


def list_csv(path: Path) -> Listing:
    """Lists the pictures that a CSV names.

    Its first line is ``path,label`` or ``path,label,split``. Paths are relative to the CSV's folder. An empty label
    means that the picture is unlabelled; split is ``train`` (or empty) or ``test``.

    Raises:
        InputError: It is not there, is no such CSV, or names a picture that does not exist or comes twice.
    """
    root = path.parent
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(columns):
                raise InputError(
                    f"{path}: the first line is {','.join(columns)!r}; it must be path,label or path,label,split"
                )
            reader.fieldnames = columns
            rows = [(reader.line_num, {key: (row[key] or "").strip() for key in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label in UTF-8") from None
    class_names = tuple(sorted({row["label"] for _, row in rows if row["label"]}))
    listing = Listing(root, class_names)
    seen: set[str] = set()
    for line, row in rows:
        name, part = Path(row["path"]).as_posix(), row.get("split", "")
        if not (root / name).is_file():
            raise InputError(f"{path} line {line}: {row['path']!r} does not exist; paths are relative to {root}")
        if name in seen:
            raise InputError(f"{path} line {line}: {row['path']!r} comes a second time; keep one")
        seen.add(name)
        if part not in ("", "train", "test") or (part == "test" and not row["label"]):
            raise InputError(
                f"{path} line {line}: split={part!r} label={row['label']!r}; write train or test, test with a label"
            )
        label = class_names.index(row["label"]) if row["label"] else UNKNOWN
        (listing.test if part == "test" else listing.train).append((name, label))
    # Canonical order: by class, then by name, those without a label last.
    listing.train.sort(key=lambda item: (item[1] == UNKNOWN, item[1], item[0]))
    listing.test.sort(key=lambda item: (item[1], item[0]))
    return listing


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say: their sizes (width, height), how many are grey, which are unreadable."""

    sizes: Counter[tuple[int, int]]
    grey: int
    bad: dict[str, str]


def survey(root: Path, names: Sequence[str], workers: int = 4) -> Survey:
    """Reads the headers of pictures, and whether a JPEG file has its end."""

    def look(name: str) -> tuple[tuple[int, int], bool] | str:
        try:
            with open(root / name, "rb") as file, Image.open(file) as picture:
                turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientation: on its side
                size = picture.size[::-1] if turned else picture.size
                if picture.format == "JPEG":
                    file.seek(0, os.SEEK_END)
                    file.seek(max(0, file.tell() - 4096))
                    if b"\xff\xd9" not in file.read():
                        return "the file is truncated"
                return size, picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return reason(error)

    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    good = [what for what in found.values() if not isinstance(what, str)]
    return Survey(
        Counter(size for size, _ in good),
        sum(grey for _, grey in good),
        {name: what for name, what in found.items() if isinstance(what, str)},
    )


def _warn_about_spellings(class_names: Sequence[str]) -> None:
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        spellings[re.sub(r"[\W_]+", "", name).casefold()].append(name)
    for names in spellings.values():
        if len(names) > 1:
            warnings.warn(
                f"classes {', '.join(map(repr, names))}: one class in two spellings? They count as two", stacklevel=4
            )


def _warn_about_duplicates(listing: Listing) -> None:
    """Compares the bytes of labelled and test pictures; only files of equal size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name, label in listing.train:
        if label != UNKNOWN:
            by_size[(listing.root / name).stat().st_size].append(name)
    found: list[tuple[str, str]] = []
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name not in digests:
            digests[name] = hashlib.sha256((listing.root / name).read_bytes()).hexdigest()
        return digests[name]

    for name, _ in listing.test:
        candidates = by_size.get((listing.root / name).stat().st_size, ())
        found += [(twin, name) for twin in candidates if digest(twin) == digest(name)][:1]
    if found:
        twin, name = found[0]
        warnings.warn(
            f"{len(found)} test pictures are labelled training pictures too, the first is {name} = {twin}; "
            "accuracy on them says nothing",
            stacklevel=4,
        )
