"""Where each picture lies in a tar file, and what its label is: one walk over the headers, without any picture.

The samples of a shard are WebDataset's: files of one name up to its first dot. A picture is told by its suffix; its
label is in ``KEY.cls`` (a whole number), ``KEY.json`` (its ``label``) or ``KEY.txt`` (the name of a class).
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..errors import InputError, one_line
from .picture_files import HEIC, SUFFIXES, is_junk
from .shard_files import Shard

LABELS = ("cls", "json", "txt")  # of a set with several, the first is taken
Label = tuple[str, str | int]  # which of them, and what it says
_READ = 1 << 20  # bytes of a label, or of a header, at most
_PADDING = 1 << 20  # zeros that a writer may put behind the end
_LONGEST = 200  # letters of a class's name
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ShardFault(Exception):
    """A tar file that cannot be used: why."""


@dataclass
class ShardIndex:
    """What is in a shard; plain values, for a JSON file.

    Attributes:
        pictures: Name inside of the shard, offset and size of each, and its label.
        twice: Names that come twice, which are left out with their samples.
        several: Samples with several pictures, which are left out.
        unused: How many files there are of each other kind.
        alone: Samples without a picture.
        links: Links, devices and files with holes, which have no bytes of their own in one place.
        is_ended: Whether the tar file has the mark of its end.
    """

    pictures: list[tuple[str, int, int, Label | None]] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    alone: int = 0
    links: int = 0
    is_ended: bool = True


@dataclass
class _Sample:
    """The files of one key."""

    pictures: list[tuple[str, int, int]] = field(default_factory=list)
    labels: dict[str, str | int | None] = field(default_factory=dict)
    is_twice: bool = False


class _Reader(io.BufferedReader):
    """A file of which no header may ask for a gigabyte."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _READ:
            raise ShardFault(f"a header of {size} bytes")
        return super().read(size)


def index_shard(shard: Shard) -> ShardIndex:
    """Walks over a tar file's headers, and reads the labels.

    Raises:
        ShardFault: It is no tar file, compressed, cut or damaged.
        InputError: A label is none.
    """
    index, samples = ShardIndex(), dict[str, _Sample]()
    try:
        with _Reader(io.FileIO(shard.path, "r")) as file:
            _require_tar(file, shard)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in _members(tar, shard.size):
                    _take(member, file, shard, samples, index)
                index.is_ended = _is_ended(file, tar.offset, shard.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise ShardFault(one_line(error)) from error
    for key, sample in samples.items():
        if sample.is_twice:
            index.twice.append(key)
        elif len(sample.pictures) > 1:
            index.several.append(key)
        elif sample.pictures:
            index.pictures.append((*sample.pictures[0], _best(sample.labels)))
        else:
            index.alone += 1
    return index


def _require_tar(file: _Reader, shard: Shard) -> None:
    head = file.read(6)
    file.seek(0)
    if not head:
        raise ShardFault("an empty file")
    for beginning, name in _PACKED.items():
        if head.startswith(beginning):
            raise ShardFault(f"compressed by {name}, so no picture can be read from its place in it: unpack it")


def _members(tar: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, of which none is kept and none lies outside of the file."""
    before = -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
        has_content = member.isreg() and not member.issparse()
        end = member.offset_data + (member.size if has_content else 0)
        if member.size < 0 or member.offset_data <= before:
            raise ShardFault(f"damaged at byte {member.offset}")
        if end > size:
            raise ShardFault(f"cut within {printable_name(member.name)}")
        before = member.offset_data
        yield member


def _is_ended(file: _Reader, offset: int, size: int) -> bool:
    """Whether a tar file ends where its members do, with a mark.

    Raises:
        ShardFault: There is something else: headers were damaged, or tar files joined, of which only one would be read.
    """
    file.seek(offset)
    rest = file.read(_READ)
    if rest.strip(b"\0"):
        damaged = bool(rest[: tarfile.BLOCKSIZE].strip(b"\0"))
        raise ShardFault(f"damaged at byte {offset}" if damaged else f"another one is joined to it after byte {offset}")
    if size - offset > _PADDING:
        raise ShardFault(f"nothing but zeros after byte {offset} of {size}, so its download was not completed")
    return bool(rest)


def _take(member: tarfile.TarInfo, file: _Reader, shard: Shard, samples: dict[str, _Sample], index: ShardIndex) -> None:
    """Puts a member into its sample."""
    if not member.isreg() or member.issparse():
        index.links += not member.isdir()
        return
    name = printable_name(member.name)
    last = name.rpartition("/")[2]
    stem, dot, kind = last.partition(".")
    if is_junk(last) or (stem.startswith("__") and stem.endswith("__")):  # such as WebDataset's own
        return
    kind = kind.lower()
    if f".{kind}" not in (*SUFFIXES, *HEIC) and kind not in LABELS:
        index.unused[kind if dot else "without a suffix"] += 1
        return
    sample = samples.setdefault(name[: len(name) - len(last)] + stem, _Sample())
    if kind in LABELS:
        sample.is_twice |= kind in sample.labels
        sample.labels[kind] = _label(member, file, f"{shard.path}: {name}", kind)
    else:
        sample.is_twice |= any(name == other for other, _, _ in sample.pictures)
        sample.pictures.append((name, member.offset_data, member.size))


def _label(member: tarfile.TarInfo, file: _Reader, place: str, kind: str) -> str | int | None:
    """What a label's file says; None for nothing, and for a negative number.

    Raises:
        InputError: It is no label.
    """
    if member.size > _READ:
        raise InputError(f"{place} has {member.size} bytes and is no label; leave it out of the shard")
    file.seek(member.offset_data)
    try:
        text = file.read(member.size).decode("utf-8-sig").strip()
        value: Any = _of_json(text) if kind == "json" else text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} cannot be read ({one_line(error)[:100]}); mend it") from None
    if kind == "cls" and text:
        if not re.fullmatch(r"[-+]?\d{1,18}", text, re.ASCII):
            raise InputError(
                f"{place}: label={one_line(repr(text))[:80]} is no whole number; write names of classes into KEY.txt"
            )
        value = int(text)
    if isinstance(value, int) and not isinstance(value, bool) and value < 10**18:
        return value if value >= 0 else None
    if value is None or not str(value).strip():
        return None
    if not isinstance(value, str):
        raise InputError(f"{place}: label={one_line(repr(value))[:80]} is no class; write one number or name")
    if len(value) > _LONGEST or not value.isprintable():
        shown = one_line(repr(value))[:80]
        raise InputError(f"{place}: {shown} is no name of a class but a text; write labels into KEY.cls")
    return value.strip()


def _of_json(text: str) -> Any:
    value = json.loads(text or "{}")
    return value.get("label") if isinstance(value, dict) else None


def _best(labels: dict[str, str | int | None]) -> Label | None:
    return next(((kind, value) for kind in LABELS if (value := labels.get(kind)) is not None), None)


def printable_name(name: str) -> str:
    r"""A name inside of a tar file, without what moves a terminal's cursor, leads upward, or is no text.

    Example:
        >>> printable_name("./a/../b\x1b[2J.jpg")
        'a/%2E%2E/b%1B[2J.jpg'
    """
    parts = ["%2E%2E" if part == ".." else part for part in name.split("/") if part not in ("", ".")]
    signs = (sign if sign.isprintable() else quote(sign, safe="", errors="surrogateescape") for sign in "/".join(parts))
    return "".join(signs)
