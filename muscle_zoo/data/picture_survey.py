"""What the headers of pictures say: sizes, modes, and which cannot be read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from .decoding import open_image, orientation, why_unreadable
from .images import UNREADABLE
from .shard_files import PicturePath, PictureRoot

# What a whole file of these kinds ends with; any other kind is decoded, for only that tells.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}


@dataclass(frozen=True)
class Survey:
    """What the headers of some pictures say.

    Attributes:
        sizes: How many pictures have a width and height, in pixels, once upright.
        gray: How many are gray.
        bad: Name of each picture that cannot be read, and why.
        modes: How many have a kind of file and a mode, such as ``PNG RGBA``.
    """

    sizes: Counter[tuple[int, int]]
    gray: int
    bad: dict[str, str]
    modes: Counter[str] = field(default_factory=Counter, compare=False)


def survey(root: PictureRoot, names: Sequence[str], workers: int = 4, whole: bool = False) -> Survey:
    """Reads the headers of pictures, and whether a file has its end: much faster than decoding.

    Args:
        root: What the names are relative to.
        names: The pictures.
        workers: Threads that read.
        whole: Decode all of each picture.
    """

    def look(name: str) -> tuple[tuple[int, int], bool, str] | str:
        try:
            return _read_header(root / name, whole)
        except UNREADABLE as error:
            return why_unreadable(root / name, error)

    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    gray = 0
    bad: dict[str, str] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Pictures of up to twice Pillow's limit are read; larger ones are errors, which say so by name.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for name, header in zip(names, pool.map(look, names), strict=True):
            if isinstance(header, str):
                bad[name] = header
            else:
                size, is_gray, mode = header
                sizes[size] += 1
                modes[mode] += 1
                gray += is_gray
    return Survey(sizes, gray, bad, modes)


def _read_header(path: PicturePath, whole: bool) -> tuple[tuple[int, int], bool, str]:
    """Width and height of a picture once it is upright, whether it is gray, and its kind and mode."""
    with open_image(path) as picture:
        kind = f"{picture.format} {picture.mode}"
        gray = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        if whole or not _has_end(path, picture.format or ""):
            picture.load()  # first: Pillow looks for a PNG's EXIF by decoding it, and TIFFs it turns then by itself
        on_its_side = orientation(picture) >= 5  # of EXIF's eight orientations
        size = picture.size[::-1] if on_its_side else picture.size
        return size, gray, kind


def _has_end(path: PicturePath, kind: str) -> bool:
    """Whether a file has the bytes that its kind ends with; more than 4096 others may stand behind them."""
    if kind not in _ENDS:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return _ENDS[kind] in file.read()
