"""Pictures inside of tar files: a folder and its files that are read as paths are, each from its place in a shard.

Nothing is extracted, so no name inside of a shard is ever the name of a file on the disk.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple


class Shard(NamedTuple):
    """A tar file as it was when it was indexed.

    Attributes:
        path: Where it is.
        size: Its bytes.
        mtime_ns: When it was changed.
    """

    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Shard:
        """The file as it is now.

        Raises:
            OSError: It cannot be looked at.
        """
        state = path.stat()
        return cls(path, state.st_size, state.st_mtime_ns)


class MemberStat(NamedTuple):
    """What is asked of the state of a picture's file, under the names that :func:`os.stat` gives it."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_dev: int
    st_ino: int


@dataclass(frozen=True)
class ShardMember:
    """A picture inside of a shard, which is opened and looked at as a path is.

    Attributes:
        shard: The tar file.
        name: What it is called: as a path that goes on inside of the shard.
        offset: Where it begins in the tar file.
        size: Its bytes.
    """

    shard: Shard
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return self.name

    def stat(self) -> MemberStat:
        """Its own size; kind and date are the shard's.

        Raises:
            OSError: The shard is not there, or is not the one that was indexed.
        """
        return self._checked(self.shard.path.stat())

    def is_file(self) -> bool:
        """Whether the shard is a file."""
        return self.shard.path.is_file()

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Opens it for reading.

        Raises:
            OSError: The shard cannot be read, or is not the one that was indexed: its places would be others.
        """
        file = io.FileIO(self.shard.path, "r")
        try:
            self._checked(os.fstat(file.fileno()))
        except OSError:
            file.close()
            raise
        return io.BufferedReader(_Part(file, self.offset, self.size))

    def _checked(self, state: os.stat_result) -> MemberStat:
        if (state.st_size, state.st_mtime_ns) != self.shard[1:]:
            raise OSError(f"{self.shard.path.name} has changed since it was indexed")
        return MemberStat(stat.S_IFREG, self.size, state.st_mtime_ns, state.st_dev, state.st_ino)


class _Part(io.RawIOBase):
    """Some bytes of a file in the middle, as a file that begins with them and ends with them."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._offset + self._at)
        read = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True, eq=False)
class ShardFolder:
    """The folder of some shards, whose files are the pictures inside of them: ``folder / "train-0.tar/1.jpg"``.

    Attributes:
        path: The folder that all shards lie below.
        shards: The tar files.
        members: Number of the shard, offset and size of each picture, by its name.
    """

    path: Path
    shards: tuple[Shard, ...] = ()
    members: Mapping[str, tuple[int, int, int]] = field(default_factory=dict, repr=False)

    def __truediv__(self, name: str) -> ShardMember:
        if name not in self.members:
            raise FileNotFoundError(f"{name} is in none of the shards")
        number, offset, size = self.members[name]
        return ShardMember(self.shards[number], f"{self.path}/{name}", offset, size)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    def absolute(self) -> Path:
        """The folder itself."""
        return self.path.absolute()

    def resolve(self) -> Path:
        """The folder itself, without links."""
        return self.path.resolve()


PictureRoot = Path | ShardFolder  # what the names of pictures are below: root / name is opened
PicturePath = Path | ShardMember
