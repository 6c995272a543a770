"""The user's own pictures: folders of classes, or a CSV of path and label."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import InputError, suggest
from ..files import file_sha256
from .images import UNKNOWN, orientation, reason

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"),
    ".avif",
)
_NOT_READ = (".heic", ".heif", ".jxl", ".svg", ".psd", ".xcf", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw")
LAYOUT = "labeled/CLASS/*.jpg and unlabeled/**.jpg (and test/CLASS/*.jpg), CLASS/*.jpg, or a CSV of path,label"


@dataclass
class Listing:
    """Pictures by name below a folder, each with its class or UNKNOWN, in canonical order.

    Attributes:
        root: The folder.
        class_names: In the order of the classes.
        train: Training pictures: the labeled ones by class, then those without a label.
        test: Test pictures; may be empty.
    """

    root: Path
    class_names: tuple[str, ...]
    train: list[tuple[str, int]] = field(default_factory=list)
    test: list[tuple[str, int]] = field(default_factory=list)


# What a part may be called, in any case; ImageFolder's users have train and val.
_PARTS = {
    **dict.fromkeys(("labeled", "labelled", "train", "training"), "labeled"),
    **dict.fromkeys(("unlabeled", "unlabelled"), "unlabeled"),
    **dict.fromkeys(("test", "val", "valid", "validation"), "test"),
}


def list_folder(root: Path) -> Listing:
    """Lists a user's pictures.

    Args:
        root: A folder with ``labeled/CLASS/`` and ``unlabeled/`` (both may have folders inside) and perhaps
            ``test/CLASS/``; ``train/`` and ``val/`` will do; or with ``CLASS/``; or a CSV file, see :func:`list_csv`.

    Returns:
        The listing. A picture that is both labeled and in test, and two spellings of one class, are warned about.

    Raises:
        InputError: It is not there, holds no such thing, or has fewer than two classes.
    """
    if root.suffix.lower() == ".csv":
        listing = list_csv(root)
    else:
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "does not exist"
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
    inside: dict[str, Path] = {}
    others = []
    for path in sorted(root.iterdir()):
        part = _PARTS.get(path.name.casefold())
        if part is None or not path.is_dir():
            others += [path.name] if path.is_dir() and not path.name.startswith(".") else []
            continue
        if part in inside:
            raise InputError(f"--data {root} has {inside[part].name}/ and {path.name}/, which are the same; keep one")
        inside[part] = path
    if inside and "labeled" not in inside:
        raise InputError(
            f"--data {root} has {next(iter(inside.values())).name}/ and no labeled/; it must hold {LAYOUT}"
        )
    if inside and others:
        warnings.warn(f"--data {root}: folders {', '.join(others)} are not used; {LAYOUT}", stacklevel=4)
    labeled = inside.get("labeled", root)
    class_names = class_folders(labeled)
    listing = Listing(root, class_names, pictures_of_classes(root, labeled, class_names))
    if "unlabeled" in inside:
        listing.train += [(name, UNKNOWN) for name in pictures(root, inside["unlabeled"])]
    _warn_about_loose_pictures(labeled)
    if (test := inside.get("test")) is not None:
        _warn_about_loose_pictures(test)
        there = class_folders(test)
        for name in there:
            if name not in class_names:
                raise InputError(f"{test}: {name!a} is not a class of {labeled}; {suggest(name, class_names)}")
        listing.test = pictures_of_classes(root, test, class_names, there)
    return listing


def _warn_about_loose_pictures(folder: Path) -> None:
    loose = [path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    if loose:
        text = f"{len(loose)} pictures lie directly in {folder} ({loose[0]}, ...); they have no class and are left out"
        warnings.warn(text, stacklevel=4)


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
    not_read: list[str] = []
    seen: set[str] = set()  # a link may lead back
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        prefix = Path(parent).relative_to(root).as_posix()
        for name in files:
            if not name.startswith("."):
                suffix = Path(name).suffix.lower()
                names += [f"{prefix}/{name}"] * (suffix in SUFFIXES)
                not_read += [suffix] * (suffix in _NOT_READ)
    for name in names:
        if name.encode("utf-8", "replace").decode() != name:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise InputError(f"{root}: the file name {shown!r} is not UTF-8; rename it")
    if not_read:
        kinds = ", ".join(sorted(set(not_read)))
        text = f"{len(not_read)} pictures in {folder} are left out ({kinds}); convert them to .jpg"
        warnings.warn(text, stacklevel=5)
    return sorted(names)


def list_csv(path: Path) -> Listing:
    """Lists the pictures that a CSV names.

    Its first line is ``path,label`` or ``path,label,split``. Paths are relative to the CSV's folder. An empty label
    means that the picture is unlabeled; split is ``train`` (or empty) or ``test``.

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
            if unused := set(columns) - {"path", "label", "split"}:
                warnings.warn(f"{path}: columns {', '.join(sorted(unused))} are not used", stacklevel=4)
            reader.fieldnames = columns
            rows = [(reader.line_num, {key: (row[key] or "").strip() for key in columns}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--data {path} cannot be read ({error}); give a CSV of path,label in UTF-8") from None
    if not rows:
        raise InputError(f"{path} has no rows; write one for each picture below path,label")
    class_names = tuple(sorted({row["label"] for _, row in rows if row["label"]}))
    trained = {row["label"] for _, row in rows if row["label"] and row.get("split") != "test"}
    listing = Listing(root, class_names)
    seen: set[str] = set()
    for line, row in rows:
        name, part = Path(row["path"]).as_posix(), row.get("split", "")
        if "\\" in name and not (root / name).is_file():  # written on Windows
            name = name.replace("\\", "/")
        if not (root / name).is_file():
            raise InputError(f"{path} line {line}: {row['path']!r} does not exist; paths are relative to {root}")
        if name in seen:
            raise InputError(f"{path} line {line}: {row['path']!r} comes a second time; keep one")
        seen.add(name)
        if part not in ("", "train", "test") or (part == "test" and not row["label"]):
            raise InputError(
                f"{path} line {line}: split={part!r} label={row['label']!r}; write train or test, test with a label"
            )
        if row["label"] and row["label"] not in trained:
            raise InputError(
                f"{path} line {line}: class {row['label']!r} has no training picture; {suggest(row['label'], trained)}"
            )
        label = class_names.index(row["label"]) if row["label"] else UNKNOWN
        (listing.test if part == "test" else listing.train).append((name, label))
    # Canonical order: by class, then by name, those without a label last.
    listing.train.sort(key=lambda item: (item[1] == UNKNOWN, item[1], item[0]))
    listing.test.sort(key=lambda item: (item[1], item[0]))
    return listing


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say: their sizes (width, height), how many are gray, which are unreadable."""

    sizes: Counter[tuple[int, int]]
    gray: int
    bad: dict[str, str]


def survey(root: Path, names: Sequence[str], workers: int = 4) -> Survey:
    """Reads the headers of pictures, and whether a JPEG file has its end."""

    def look(name: str) -> tuple[tuple[int, int], bool] | str:
        try:
            with Image.open(root / name) as picture:
                if picture.format == "TIFF" and orientation(picture) > 1:
                    picture.load()  # Pillow turns it then by itself
                turned = orientation(picture) >= 5  # EXIF orientation: on its side
                size = picture.size[::-1] if turned else picture.size
                if picture.format == "JPEG":
                    with open(root / name, "rb") as file:
                        file.seek(max(0, os.path.getsize(root / name) - 4096))
                        ended = b"\xff\xd9" in file.read()
                    if not ended:
                        picture.load()  # something may stand behind the end: only decoding tells
                return size, picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return reason(error)

    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    good = [what for what in found.values() if not isinstance(what, str)]
    return Survey(
        Counter(size for size, _ in good),
        sum(gray for _, gray in good),
        {name: what for name, what in found.items() if isinstance(what, str)},
    )


def _warn_about_spellings(class_names: Sequence[str]) -> None:
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        plain = unicodedata.normalize("NFC", re.sub(r"[\s_-]+", "", name)).casefold()
        spellings[plain or name].append(name)
    for names in spellings.values():
        if len(names) > 1:
            warnings.warn(
                f"classes {', '.join(map(repr, names))}: one class in two spellings? They count as two", stacklevel=4
            )


def _warn_about_duplicates(listing: Listing) -> None:
    """Compares the bytes of labeled and test pictures; only files of equal size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)

    def size(name: str) -> int:
        try:
            return (listing.root / name).stat().st_size
        except OSError:
            return -1

    for name, label in listing.train:
        if label != UNKNOWN:
            by_size[size(name)].append(name)
    found: list[tuple[str, str]] = []
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name not in digests:
            try:
                digests[name] = file_sha256(listing.root / name)
            except OSError:
                digests[name] = name  # equal to no other
        return digests[name]

    for name, _ in listing.test:
        candidates = by_size.get(size(name), ()) if size(name) >= 0 else ()
        found += [(twin, name) for twin in candidates if digest(twin) == digest(name)][:1]
    if found:
        twin, name = found[0]
        warnings.warn(
            f"{len(found)} test pictures are labeled training pictures too, the first is {name} = {twin}; "
            "accuracy on them says nothing",
            stacklevel=4,
        )
