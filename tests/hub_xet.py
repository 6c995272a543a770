"""The storage side of hf-xet for ``tests.hub_server``: takes xorbs and shards, rebuilds files from them.

hf-xet cuts a file into chunks, packs the compressed chunks into "xorbs", and uploads those and then "shards", which say
of which chunks a file is made and what its sha256 is. A download asks for this recipe, fetches ranges of xorbs and puts
the chunks together itself. Plain HTTP clients get what ``XetStore.content`` has put together here.

Formats: huggingface.co/docs/xet, pages "xorb", "shard" and "api"; LZ4's frame format.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

_RECORD = 48  # bytes of every record in a shard, its header included
_LAST_FILE = b"\xff" * 32
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30
_CHUNK_HEADER = 8
_LZ4_FRAME = b"\x04\x22\x4d\x18"


@dataclass(frozen=True)
class Term:
    """A run of chunks of one xorb, which unpacks to a part of a file."""

    xorb: str
    size: int
    first: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in its xorb, header included, and how it is compressed."""

    start: int
    end: int
    scheme: int


class XetStore:
    """Xorbs and the files that are made of them, in memory.

    Attributes:
        hashes: The xet hash of each file, by its sha256.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}
        self.xorbs: dict[str, bytes] = {}
        self._files: dict[str, list[Term]] = {}

    def add_shard(self, shard: bytes) -> None:
        """Learns of which terms the files of a shard are made."""
        records = [shard[at : at + _RECORD] for at in range(_RECORD, len(shard), _RECORD)]
        while records[0][:32] != _LAST_FILE:
            file = _hex(records[0])
            flags, count = struct.unpack_from("<II", records[0], 32)
            self._files[file] = [
                Term(_hex(term), *struct.unpack_from("<III", term, 36)) for term in records[1 : count + 1]
            ]
            del records[: 1 + count * (2 if flags & _VERIFIED else 1)]
            if flags & _WITH_SHA256:
                self.hashes[_hex(records.pop(0))] = file

    def xorbs_of(self, sha256: str) -> list[str]:
        """The xorbs that hold a file; none where no shard has named it."""
        return sorted({term.xorb for term in self._terms(sha256)})

    def content(self, sha256: str) -> bytes | None:
        """A whole file, or None where no shard has named it."""
        parts = [
            _unpacked(self.xorbs[term.xorb], chunk)
            for term in self._terms(sha256)
            for chunk in _chunks(self.xorbs[term.xorb])[term.first : term.end]
        ]
        return b"".join(parts) if parts else None

    def _terms(self, sha256: str) -> list[Term]:
        return self._files.get(self.hashes.get(sha256, ""), [])

    def recipe(self, file: str, start: int, stop: float, url: str) -> dict[str, Any] | None:
        """Which ranges of which xorbs, served below ``url``, hold the bytes of a file from start to stop.

        Returns:
            The answer of the reconstruction API, or None where the range lies behind the end of the file.

        Raises:
            KeyError: There is no such file.
        """
        terms: list[Term] = []
        skipped = at = 0
        for term in self._files[file]:
            if at < stop and at + term.size > start:
                skipped = skipped if terms else start - at
                terms.append(term)
            at += term.size
        if not terms:
            return None
        rows = [{"hash": one.xorb, "unpacked_length": one.size, "range": _span(one.first, one.end)} for one in terms]
        xorbs = {one.xorb: [other for other in terms if other.xorb == one.xorb] for one in terms}
        places = {xorb: [self._place(held, url)] for xorb, held in xorbs.items()}
        return {"offset_into_first_range": skipped, "terms": rows, "fetch_info": places}

    def _place(self, terms: list[Term], url: str) -> dict[str, Any]:
        """One range of a xorb, with all of these terms: hf-xet does not expect ranges that overlap."""
        first, end, xorb = min(term.first for term in terms), max(term.end for term in terms), terms[0].xorb
        chunks = _chunks(self.xorbs[xorb])[first:end]
        in_bytes = _span(chunks[0].start, chunks[-1].end - 1)
        return {"range": _span(first, end), "url": f"{url}/{xorb}", "url_range": in_bytes}


def _span(start: int, end: int) -> dict[str, int]:
    return {"start": start, "end": end}


def _hex(data: bytes) -> str:
    """Xet writes a hash as four little-endian numbers; a sha256 in a shard is kept the same way."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", data))


def _chunks(xorb: bytes) -> list[Chunk]:
    chunks, at = [], 0
    while at < len(xorb) and xorb[at] == 0:  # the version of a chunk; some clients append a footer, which is no chunk
        end = at + _CHUNK_HEADER + int.from_bytes(xorb[at + 1 : at + 4], "little")
        chunks.append(Chunk(at, end, xorb[at + 4]))
        at = end
    return chunks


def _unpacked(xorb: bytes, chunk: Chunk) -> bytes:
    data = xorb[chunk.start + _CHUNK_HEADER : chunk.end]
    if chunk.scheme == 0:
        return data
    data = _lz4(data)
    if chunk.scheme == 1:
        return data
    # Scheme 2 groups bytes by their position in a four-byte word before it compresses.
    out, at = bytearray(len(data)), 0
    for lane in range(4):
        size = len(out[lane::4])
        out[lane::4] = data[at : at + size]
        at += size
    return bytes(out)


def _lz4(frame: bytes) -> bytes:
    """The content of an LZ4 frame, its checksums unread: the sha256 of the whole file is compared anyway."""
    if frame[:4] != _LZ4_FRAME:
        raise ValueError("not an LZ4 frame")
    flags = frame[4]
    at = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    out = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        at += 4
        stored, size = size >> 31, size & 0x7FFFFFFF
        block = frame[at : at + size]
        if stored:
            out += block
        else:
            _lz4_block(block, out)
        at += size + (4 if flags & 16 else 0)
    return bytes(out)


def _lz4_block(block: bytes, out: bytearray) -> None:
    source = iter(block)

    def length(nibble: int) -> int:
        """A length that goes on in further bytes where four bits are not enough."""
        total, more = nibble, nibble == 15
        while more:
            byte = next(source)
            total, more = total + byte, byte == 255
        return total

    for token in source:
        out += bytes(itertools.islice(source, length(token >> 4)))
        offset = bytes(itertools.islice(source, 2))
        if not offset:  # the last sequence has literals only
            return
        copied = length(token & 15) + 4
        pattern = out[len(out) - int.from_bytes(offset, "little") :][:copied]
        out += (pattern * (copied // len(pattern) + 1))[:copied]
