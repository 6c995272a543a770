"""The user's own pictures in folders of classes: listed, and their headers read."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from ..errors import InputError, suggest
from ..files import file_sha256
from .images import UNKNOWN, orientation, reason
from .picture_csv import Listing, list_csv

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"),
    ".avif",
)
_NOT_READ = (".heic", ".heif", ".jxl", ".svg", ".psd", ".xcf", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw")
LAYOUT = "labeled/CLASS/*.jpg and unlabeled/**.jpg (and test/CLASS/*.jpg), CLASS/*.jpg, or a CSV of path,label"


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
            ``test/CLASS/``; ``train/`` and ``val/`` will do; or with ``CLASS/``; or a CSV file, see
            :func:`muscle_zoo.data.picture_csv.list_csv`.

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
        tested_classes = class_folders(test)
        for name in tested_classes:
            if name not in class_names:
                raise InputError(f"{test}: {name!a} is not a class of {labeled}; {suggest(name, class_names)}")
        listing.test = pictures_of_classes(root, test, class_names, tested_classes)
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
    root: Path, folder: Path, class_names: Sequence[str], present: Sequence[str] | None = None
) -> list[tuple[str, int]]:
    """Pictures of each class's folder, class by class.

    Args:
        root: What the names are relative to.
        folder: Holds a folder for each class.
        class_names: All classes.
        present: Those that have a folder; all by default.

    Raises:
        InputError: A class's folder has none.
    """
    labeled = []
    for label, name in enumerate(class_names):
        if present is not None and name not in present:
            continue
        names = pictures(root, folder / name)
        if not names:
            raise InputError(f"{folder / name} holds no pictures ({', '.join(SUFFIXES)}); fill it or delete it")
        labeled += [(path, label) for path in names]
    return labeled


def pictures(root: Path, folder: Path) -> list[str]:
    """Pictures in a folder and those inside it, sorted, as paths below root with forward slashes.

    Raises:
        InputError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions")

    names: list[str] = []
    not_read: list[str] = []  # suffixes of pictures of a kind that is not read
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(parent)
        if real in visited:  # a link led back: without this the walk would never end
            folders.clear()
            continue
        visited.add(real)
        prefix = Path(parent).relative_to(root).as_posix()
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                names.append(f"{prefix}/{name}")
            elif suffix in _NOT_READ:
                not_read.append(suffix)
    for name in names:
        if name.encode("utf-8", "replace").decode() != name:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise InputError(f"{root}: the file name {shown!r} is not UTF-8; rename it")
    if not_read:
        kinds = ", ".join(sorted(set(not_read)))
        text = f"{len(not_read)} pictures in {folder} are left out ({kinds}); convert them to .jpg"
        warnings.warn(text, stacklevel=5)
    return sorted(names)


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say.

    Attributes:
        sizes: How many pictures have a width and height, in pixels, once upright.
        gray: How many are gray.
        bad: Name of each picture that cannot be read, and why.
    """

    sizes: Counter[tuple[int, int]]
    gray: int
    bad: dict[str, str]


def survey(root: Path, names: Sequence[str], workers: int = 4) -> Survey:
    """Reads the headers of pictures, and whether a JPEG file has its end: much faster than decoding."""

    def look(name: str) -> tuple[tuple[int, int], bool] | str:
        try:
            return _read_header(root / name)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return reason(error)

    sizes: Counter[tuple[int, int]] = Counter()
    gray = 0
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for name, header in zip(names, pool.map(look, names), strict=True):
            if isinstance(header, str):
                bad[name] = header
            else:
                size, is_gray = header
                sizes[size] += 1
                gray += is_gray
    return Survey(sizes, gray, bad)


def _read_header(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of a picture once it is upright, and whether it is gray."""
    with Image.open(path) as picture:
        if picture.format == "TIFF" and orientation(picture) > 1:
            picture.load()  # Pillow turns it then by itself
        on_its_side = orientation(picture) >= 5  # of EXIF's eight orientations
        size = picture.size[::-1] if on_its_side else picture.size
        if picture.format == "JPEG":
            with path.open("rb") as file:
                file.seek(max(0, os.path.getsize(path) - 4096))
                has_end = b"\xff\xd9" in file.read()
            if not has_end:
                picture.load()  # more than 4096 bytes may stand behind the end: only decoding tells
        return size, picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")


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

    def size(name: str) -> int:
        try:
            return (listing.root / name).stat().st_size
        except OSError:
            return -1

    @cache
    def digest(name: str) -> str:
        try:
            return file_sha256(listing.root / name)
        except OSError:
            return name  # equal to no other

    by_size: dict[int, list[str]] = defaultdict(list)
    for name, label in listing.train:
        if label != UNKNOWN and size(name) >= 0:
            by_size[size(name)].append(name)
    duplicates: list[tuple[str, str]] = []
    for name, _ in listing.test:
        twin = next((twin for twin in by_size.get(size(name), ()) if digest(twin) == digest(name)), None)
        if twin is not None:
            duplicates.append((twin, name))
    if duplicates:
        twin, name = duplicates[0]
        warnings.warn(
            f"{len(duplicates)} test pictures are labeled training pictures too, the first is {name} = {twin}; "
            "accuracy on them says nothing",
            stacklevel=4,
        )
