"""Which files of a folder are pictures: by suffix or by content, without what systems and tools leave behind."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError
from .listing import Note, first_of, natural_key, pictures_in_words
from .shard_files import PicturePath

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"),
    ".avif",
)
HEIC = (".heic", ".heif")
# Pictures in them would be lost. Of cameras' raw files, which begin as TIFF does, Pillow would read the small preview.
_NOT_READ = (
    *(*HEIC, ".jxl", ".svg", ".psd", ".xcf", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".pef"),
    *(".raf", ".srw", ".ico", ".tga", ".pcx", ".dds", ".exr", ".hdr", ".eps", ".ai", ".pdf", ".dcm", ".dicom", ".nii"),
    *(".npy", ".npz", ".mat", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".zip", ".tar", ".gz", ".7z", ".rar"),
)

# Folders of file systems, network disks and tools, in small letters: copies and previews, no pictures of anybody's.
JUNK_FOLDERS = {
    *("@eadir", "__macosx", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "$recycle.bin", "recycler"),
    *("system volume information", "lost+found", "__pycache__", "network trash folder", "temporary items"),
    *("thevolumesettingsfolder", "@tmp", "@appstore", "@synoresource", "@synoeastream", "~snapshot", "node_modules"),
    *("_thumbnails", "thumbnails", "__thumbs", "_thumbs", "thmbnl", "bridgecache", "adobe bridge cache", "captureone"),
}
# Of catalogs, which photo programs keep copies and previews in; of disks that were mended; of Windows' sharing.
_JUNK_PATTERN = re.compile(
    r".*\.(lrdata|lrcat-data|photoslibrary|photolibrary|aplibrary|migratedphotolibrary|cocatalog)|found\.\d{3}|~\$.*"
)
_JUNK_FILES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info"),
    *("folder.jpg", "albumartsmall.jpg", "pspbrwse.jbf", "synofile_thumb_s.jpg"),
}

# How pictures begin, of the kinds that are read.
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*"),
    *(b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xffO\xffQ"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# How other files begin, in small letters.
_TEXTS = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML file",
    b"<svg": "an SVG file",
    b"version https://git-lfs": "a pointer of Git LFS, not the picture: run git lfs pull",
    b"%pdf": "a PDF",
    b"%!ps": "PostScript",
    b"pk\x03\x04": "a ZIP archive",
    b'{"': "JSON",
    b"\0" * 32: "zeros, so its content was lost",
}


@dataclass
class Found:
    """What was met on the way to the pictures; names are relative to the folder that is listed.

    Attributes:
        junk: Files and folders of systems and tools.
        by_content: Pictures without the suffix of one.
        not_read: Pictures of kinds that are not read.
        loops: Links that lead back, which are not followed.
        closed: Files without a picture's suffix that cannot be opened.
        others: Files that are no pictures.
        no_files: Pipes, sockets and devices.
    """

    junk: list[str] = field(default_factory=list)
    by_content: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    no_files: list[str] = field(default_factory=list)

    def notes(self) -> list[Note]:
        """All of it in words, each once: a folder may have been looked into twice."""
        for name in ("junk", "by_content", "not_read", "loops", "closed", "others", "no_files"):
            setattr(self, name, sorted(set(getattr(self, name))))
        notes = []
        if self.junk:
            text = f"{len(self.junk)} files or folders of systems and tools are left out ({first_of(self.junk)})"
            notes.append(Note(text, tuple(self.junk)))
        if self.others:
            what = "file that is no picture is" if len(self.others) == 1 else "files that are no pictures are"
            text = f"{len(self.others)} {what} left out ({first_of(self.others)})"
            notes.append(Note(text, tuple(self.others)))
        if self.by_content:
            text = f"{pictures_in_words(len(self.by_content))} without the suffix of one, told by the content"
            notes.append(Note(f"{text} ({first_of(self.by_content)})", tuple(self.by_content)))
        if self.loops:
            text = f"{len(self.loops)} links lead back to folders that are listed anyway, and are not followed"
            notes.append(Note(f"{text} ({first_of(self.loops)})", tuple(self.loops)))
        if self.no_files:
            what = "pipe, socket or device is" if len(self.no_files) == 1 else "pipes, sockets or devices are"
            text = f"{len(self.no_files)} {what} left out ({first_of(self.no_files)})"
            notes.append(Note(text, tuple(self.no_files)))
        if self.not_read:
            suffixes = [Path(name).suffix.lower() for name in self.not_read]
            kinds = Counter(suffix if suffix in _NOT_READ else HEIC[0] for suffix in suffixes)
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            remedy = "convert them to .jpg"
            if set(kinds) & set(HEIC):
                remedy += ", or for HEIC: python -m pip install pillow-heif"
            text = f"{pictures_in_words(len(self.not_read))} of kinds that are not read are left out: {counts}"
            notes.append(Note(f"{text} ({first_of(self.not_read)}); {remedy}", tuple(self.not_read), decide=True))
        if self.closed:
            text = f"{len(self.closed)} files cannot be opened to see whether they are pictures"
            notes.append(
                Note(f"{text} ({first_of(self.closed)}); check their permissions", tuple(self.closed), decide=True)
            )
        return notes


@cache
def reads_heic() -> bool:
    """Whether the package that reads HEIC is installed, which is an extra; it is told to Pillow then."""
    if find_spec("pillow_heif") is None:
        return False
    pillow_heif: Any = import_module("pillow_heif")
    pillow_heif.register_heif_opener()
    return True


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is one of a system or tool: hidden, a preview, a recycle bin."""
    plain = name.casefold()
    return name.startswith(".") or plain in JUNK_FOLDERS | _JUNK_FILES or bool(_JUNK_PATTERN.fullmatch(plain))


def looks_like_heic(head: bytes) -> bool:
    """Whether a file that begins so is an iPhone's picture, whatever its suffix."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def looks_like_a_picture(head: bytes) -> bool:
    """Whether a file that begins so is a picture of a kind that is read."""
    if head.startswith(_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis") or (looks_like_heic(head) and reads_heic())
    is_bmp = (
        head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    )
    return is_bmp or (head[:2] in (b"P5", b"P6") and head[2:3].isspace())


def kind_of(path: PicturePath) -> str:
    """What a file that is no picture is, in words; empty where that is not known."""
    try:
        head, status = _head(path), path.stat()
        if not stat.S_ISREG(status.st_mode):
            return ""
        if not status.st_size:
            return "an empty file"
    except OSError:
        return ""
    if looks_like_heic(head) and not reads_heic():
        return "HEIC: python -m pip install pillow-heif, or convert it to .jpg"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((kind for start, kind in _TEXTS.items() if text.startswith(start)), "")


def folders_in(folder: Path, found: Found | None = None, root: Path | None = None) -> list[str]:
    """Names of the folders in a folder that are somebody's own, in natural order; links that lead back are left out."""
    names = []
    for path in folder.iterdir():
        if not path.is_dir():
            continue
        if is_junk(path.name):
            if found is not None:
                found.junk.append(_below(root or folder, path))
        elif _leads_back(path, root or folder):
            if found is not None:
                found.loops.append(_below(root or folder, path))
        else:
            names.append(path.name)
    return sorted(names, key=natural_key)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _leads_back(path: Path, root: Path) -> bool:
    """Whether a folder is a link to one above it, or to one above all that is listed."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return path.parent.resolve().is_relative_to(target) or root.resolve().is_relative_to(target)


def loose_pictures(folder: Path) -> list[str]:
    """Names of the pictures that lie in a folder itself, by suffix."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not is_junk(path.name) and path.is_file()
    )


def pictures(root: Path, folder: Path, found: Found | None = None) -> list[str]:
    """Pictures in a folder and those inside it, sorted, as paths below root with forward slashes.

    Args:
        root: What the names are relative to.
        folder: Where to look.
        found: Takes what else was met.

    Raises:
        InputError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions")

    found = Found() if found is None else found
    names: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        prefix = Path(parent).relative_to(root).as_posix()
        real = os.path.realpath(parent)
        if real in visited:  # a link led back: without this the walk would never end
            folders.clear()
            found.loops.append(prefix)
            continue
        visited.add(real)
        found.junk += [f"{prefix}/{name}" for name in sorted(folders) if is_junk(name)]
        back = [name for name in folders if not is_junk(name) and _leads_back(Path(parent, name), root)]
        found.loops += [f"{prefix}/{name}" for name in sorted(back)]
        folders[:] = [name for name in folders if not is_junk(name) and name not in back]
        names += [f"{prefix}/{name}" for name in files if _is_picture(Path(parent, name), prefix, found)]
    _require_utf8(root, names)
    return sorted(names)


def _is_picture(path: Path, prefix: str, found: Found) -> bool:
    suffix, name = path.suffix.lower(), f"{prefix}/{path.name}"
    if is_junk(path.name):
        found.junk.append(name)
        return False
    if not is_file_or_missing(path):
        found.no_files.append(name)
        return False
    if suffix in SUFFIXES or (suffix in HEIC and reads_heic()):
        return True
    if suffix in _NOT_READ and suffix not in HEIC:
        found.not_read.append(name)
        return False
    try:
        head = _head(path)
    except PermissionError:
        found.closed.append(name)
        return False
    except OSError:  # a link to nothing, a pipe
        return False
    if looks_like_a_picture(head):
        found.by_content.append(name)
        return True
    (found.not_read if suffix in HEIC or looks_like_heic(head) else found.others).append(name)
    return False


def is_file_or_missing(path: Path) -> bool:
    """Whether a path is a file, or leads nowhere: false for what may never end, such as a pipe or a device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return True


def _head(path: PicturePath) -> bytes:
    """How a file begins; nothing for a pipe, which would wait for a writer."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(32)


def _require_utf8(root: Path, names: Sequence[str]) -> None:
    for name in names:
        if name.encode("utf-8", "replace").decode() != name:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise InputError(f"{root}: the file name {shown!r} is not UTF-8; rename it")
