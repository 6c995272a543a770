"""WebDataset's shards for tests, and what they are taken for."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from muscle_zoo.data.addresses import local_pictures
from muscle_zoo.data.listing import Listing
from muscle_zoo.data.picture_folder import find_pictures
from tests.pictures import picture

Files = Sequence[tuple[str, bytes]]


def encoded(label: str, number: int, kind: str = "PNG") -> bytes:
    """A picture as a file's bytes."""
    content = io.BytesIO()
    with Image.open(picture(Path("made") / f"{label}{number}.png", label, number)) as made:
        made.save(content, kind)
    return content.getvalue()


def shard(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: Sequence[int], label: str = "cls", kind: str = "png") -> list[tuple[str, bytes]]:
    """A cat, a dog, a cat, ... with their labels."""
    said = {"cls": ("0", "1"), "txt": ("cat\n", "dog\n"), "json": ('{"label": "cat", "id": 7}', '{"label": "dog"}')}
    files = []
    for i in numbers:
        files.append((f"{i:03}.{kind}", encoded(("cat", "dog")[i % 2], i)))
        files += [(f"{i:03}.{label}", said[label][i % 2].encode())] if label else []
    return files


def listed(text: str) -> Listing:
    return find_pictures(local_pictures(Path(text)))


def said(listing: Listing) -> list[str]:
    return [note.text for note in listing.notes if note.decide]
