"""Files of embeddings: written row after row, gone on with after a kill, read without loading them.

A file is a safetensors file of one tensor, ``embeddings``, whose header holds everything that its content depends on.
Until it is whole it has the ending ``.part``, and beside it a note says how many rows of it are certain.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from ..files import cache_root, read_json, write_json

FORMAT = 1  # goes up when a file of today's name would hold anything else
TENSOR = "embeddings"
_DTYPES = {torch.float16: ("F16", np.float16), torch.float32: ("F32", np.float32)}

Key = Mapping[str, Any]


def cache_folder() -> Path:
    """Where embeddings are kept, in the cache."""
    return cache_root() / "embeddings"


@dataclass(frozen=True)
class EmbeddingFile:
    """A file of embeddings, whole, begun or not there.

    Attributes:
        path: Where it is, or is to be.
        key: What its content depends on, as plain values; it stands in the header.
        rows: Images.
        width: Numbers of each embedding.
        dtype: float16 or float32.
    """

    path: Path
    key: Key
    rows: int
    width: int
    dtype: torch.dtype = torch.float16

    @classmethod
    def in_cache(cls, key: Key, rows: int, width: int, dtype: torch.dtype = torch.float16) -> EmbeddingFile:
        """The cache's file for a key."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
        return cls(cache_folder() / f"{name}.safetensors", key, rows, width, dtype)

    @property
    def nbytes(self) -> int:
        """Size of the whole file."""
        return len(self.header()) + self.rows * self._row_bytes

    @property
    def part(self) -> Path:
        """The file while it is written."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def note(self) -> Path:
        """How much of :attr:`part` is certain."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def header(self) -> bytes:
        """The bytes before the first row, as safetensors has them."""
        shape, size = [self.rows, self.width], self.rows * self._row_bytes
        entry = {"dtype": _DTYPES[self.dtype][0], "shape": shape, "data_offsets": [0, size]}
        metadata = {"format": "pt", "muscle_zoo_embeddings": str(FORMAT), "key": json.dumps(self.key, sort_keys=True)}
        text = json.dumps({"__metadata__": metadata, TENSOR: entry}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def read(self) -> Tensor | None:
        """The embeddings ``(rows, width)``, mapped into memory: what is looked at is read, and nothing more.

        Returns:
            None where there is no file, or none that can be used: it is cut short, of another version of this package,
            or damaged. Then it is removed, with a line that says so.
        """
        if not self.path.exists():
            return None
        if problem := self._problem():
            print(f"{self.path}: {problem}; these embeddings are made again", file=sys.stderr, flush=True)
            self.path.unlink(missing_ok=True)
            return None
        # "c": writes, of which there are none, would stay in memory; torch warns of arrays that cannot be written to.
        array = np.memmap(self.path, _DTYPES[self.dtype][1], "c", len(self.header()), (self.rows, self.width))
        return torch.from_numpy(array)

    def _problem(self) -> str:
        """Why the file cannot be used, in words; empty where it can."""
        try:
            with safe_open(self.path, "pt") as file:  # compares the header with the file's size
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            return f"it is damaged or cut short ({error})"
        if (version := metadata.get("muscle_zoo_embeddings")) != str(FORMAT):
            return f"it is of version {version} of its format, not {FORMAT}"
        with self.path.open("rb") as stream:
            header = self.header()
            same = stream.read(len(header)) == header
        return "" if same else "it holds other embeddings than its name says"


class EmbeddingWriter:
    """Writes the rows of a file, one batch after the other; a writer of the same file goes on where one was killed.

    Args:
        file: What is written.

    Attributes:
        rows: Rows that are written.

    Raises:
        InputError: The folder cannot be made, or there is not enough space; nothing was written.
    """

    def __init__(self, file: EmbeddingFile) -> None:
        self.file = file
        self.rows = 0
        self._digest = hashlib.sha256()
        with _told(file):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            certain = self._certain_rows()
            self._stream = file.part.open("r+b" if certain else "w+b")
            self.rewind(certain)
            self._require_space()

    def _require_space(self) -> None:
        needed = (self.file.rows - self.rows) * self.file._row_bytes
        if (free := shutil.disk_usage(self.file.path.parent).free) < needed:
            self.discard()
            raise InputError(
                f"{self.file.path.parent} has {free >> 20} MiB left, and embeddings need {(needed >> 20) + 1}; free "
                "space, or say another folder (MUSCLE_ZOO_CACHE)"
            )

    def _certain_rows(self) -> int:
        """Rows that a writer before this one left behind, if they are what it wrote."""
        try:
            note = read_json(self.file.note)
            size = len(self.file.header()) + note["rows"] * self.file._row_bytes
            with self.file.part.open("rb") as stream:
                same = _sha256_of_first(stream, size) == note["sha256"]
            return int(note["rows"]) if same and note["format"] == FORMAT else 0
        except (InputError, OSError, KeyError, TypeError, ValueError):
            return 0

    def rewind(self, rows: int) -> None:
        """Keeps the first rows and drops the others."""
        header = self.file.header()
        size = len(header) + rows * self.file._row_bytes
        self._digest = hashlib.sha256()
        with _told(self.file, self):
            self._stream.seek(0)
            if not rows:
                self._stream.write(header)
            self._stream.truncate(size)
            self._stream.flush()
            self._stream.seek(0)
            _update(self._digest, self._stream, size)
        self.rows = rows

    def append(self, embeddings: Tensor) -> None:
        """Writes the next rows ``(n, width)``.

        Raises:
            InputError: The disk is full; what was written is removed. Or they are not finite.
        """
        rows = embeddings.to(self.file.dtype)
        if not rows.isfinite().all():
            raise InputError(
                f"the embeddings of {self.file.key.get('arch', 'the network')} are not finite in {self.file.dtype}; "
                "give other weights (init=)"
            )
        content = rows.contiguous().numpy().tobytes()
        with _told(self.file, self):
            self._stream.write(content)
        self._digest.update(content)
        self.rows += len(rows)

    def keep(self) -> None:
        """Makes what was written certain: whoever goes on begins here."""
        with _told(self.file, self):
            self._sync()
            write_json(self.file.note, {"format": FORMAT, "rows": self.rows, "sha256": self._digest.hexdigest()})

    def finish(self) -> None:
        """Gives the file its name; it must be whole."""
        assert self.rows == self.file.rows, f"{self.rows} of {self.file.rows} rows are written"
        with _told(self.file, self):
            self._sync()
            self._stream.close()
            self.file.part.replace(self.file.path)
        self.file.note.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the file; what is certain stays."""
        self._stream.close()

    def discard(self) -> None:
        """Removes what was written."""
        with suppress(OSError):
            self._stream.close()
        self.file.part.unlink(missing_ok=True)
        self.file.note.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())


class _told:
    """Turns what the system says of a file into one line; of a full disk nothing half-written is left."""

    def __init__(self, file: EmbeddingFile, writer: EmbeddingWriter | None = None) -> None:
        self.file, self.writer = file, writer

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, OSError):
            return
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if self.writer is not None:
            self.writer.discard()
        why = "the disk is full" if full else str(error.strerror or error)
        remedy = f"free {(self.file.nbytes >> 20) + 1} MiB, or say another folder (MUSCLE_ZOO_CACHE)"
        raise InputError(f"{self.file.path.parent} cannot take embeddings ({why}); {remedy}") from error


def _update(digest: Any, stream: Any, size: int) -> None:
    while size > 0 and (chunk := stream.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)


def _sha256_of_first(stream: Any, size: int) -> str:
    digest = hashlib.sha256()
    _update(digest, stream, size)
    return digest.hexdigest()
