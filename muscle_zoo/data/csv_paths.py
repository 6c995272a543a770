"""Where the pictures are that a table names: by the path it gives, or by the end of it.

Tables are written on one machine and read on another: whole paths, Windows's too, lead nowhere there. The longest end
of a path that is a file below the table's folder is the one that was meant.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from .csv_table import Cells
from .picture_files import SUFFIXES, is_junk


class FileFinder:
    """Finds the files that rows of a table mean.

    Args:
        folder: The table's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[str, list[str]] | None = None
        self.by_their_ends: list[str] = []  # paths as the table gives them

    def find(self, cells: Cells) -> Path | None:
        """A row's picture: a whole path, or one below the table's folder; None if there is none."""
        if not cells.path or "\0" in cells.path:
            return None
        text = cells.path.removeprefix("file://")
        for spelling in dict.fromkeys((text, text.replace("\\", "/"))):
            if _is_file(self.folder / spelling):
                return Path(spelling)
        if (found := self._by_its_end(text.replace("\\", "/"))) is not None:
            self.by_their_ends.append(cells.path)
        return found

    def _by_its_end(self, text: str) -> Path | None:
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        index = self._files()
        for start in range(len(parts)):
            end = _plain("/".join(parts[start:]))
            for spelling in (end, *(f"{end}{suffix}" for suffix in SUFFIXES)):
                found = index.get(spelling) or []
                if len(found) == 1:
                    return Path(found[0])
        return None

    def _files(self) -> dict[str, list[str]]:
        """Files below the folder by each end of their paths, in small letters; made when it is needed."""
        if self._index is None:
            self._index = defaultdict(list)
            for name in _walk(self.folder):
                parts = _plain(name).split("/")
                for start in range(len(parts)):
                    self._index["/".join(parts[start:])].append(name)
            for end, names in self._index.items():  # a whole path below the folder counts more than another's end
                if len(names) > 1 and len(whole := [name for name in names if _plain(name) == end]) == 1:
                    self._index[end] = whole
        return self._index


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has what no name can have
        return False


def _plain(name: str) -> str:
    """A path as Windows and macOS compare them: in any case, accents composed."""
    return unicodedata.normalize("NFC", name).casefold()


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(name)]
        prefix = Path(parent).relative_to(folder)
        yield from ((prefix / name).as_posix() for name in files if not is_junk(name))


def name_pictures(table: Path, root: Path, files: Sequence[Path]) -> tuple[Path, list[str]]:
    """The folder that all pictures of a table are below, and the path of each below it.

    That is the table's own folder; where a picture lies elsewhere, the common parent of all. The names are written into
    split.json, which is published with a checkpoint, so they never say where on the disk that folder is.

    Args:
        table: For the errors.
        root: The folder that relative paths are relative to.
        files: Paths that exist, relative to root or whole.

    Raises:
        InputError: They have no folder in common.
    """
    below = [_path_below(root, file) for file in files]
    names = [name for name in below if name is not None]
    if len(names) < len(files):
        places = [_resolve_folder(root / file) for file in files]
        root = _common_folder(table, places)
        names = [place.relative_to(root).as_posix() for place in places]
    return root, names


def _path_below(root: Path, file: Path) -> str | None:
    """The path of a picture below a folder, with forward slashes; None if it does not lie there."""
    if not file.is_absolute() and ".." not in file.parts:
        return file.as_posix()  # as it is written, for links inside the folder keep their names
    for folder in (root.absolute(), root.resolve()):  # either may be what the table's author saw
        for place in (file, _resolve_folder(root / file)):
            if ".." not in place.parts and place.is_relative_to(folder):
                return place.relative_to(folder).as_posix()
    return None


def _resolve_folder(file: Path) -> Path:
    """A file by the real path of its folder; the file itself may be a link, and two links are two pictures."""
    return file.parent.resolve() / file.name


def _common_folder(table: Path, places: Sequence[Path]) -> Path:
    try:
        common = Path(os.path.commonpath([place.parent for place in places]))
    except ValueError:  # two drives of Windows
        common = Path(places[0].anchor)
    if common == Path(common.anchor):
        raise InputError(
            f"{table}: its pictures have no folder in common but {common}, so their names would be whole paths, and "
            "names are published; put them, or links to them, into one folder"
        )
    return common
