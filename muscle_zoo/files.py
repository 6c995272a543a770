"""Files: hashed, written whole or not at all, and read within bounds."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from reprlib import repr as shown
from typing import IO, Any

from .errors import InputError

JSON_LIMIT = 8 << 20  # bytes of a JSON file; once read it takes up to 25 times as much memory
_DIGITS = 20  # of a whole number: more than any field holds


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return content_sha256(file)


def content_sha256(file: IO[bytes]) -> str:
    """sha256 of what is left to read of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def cache_root() -> Path:
    """Where what can be made or downloaded again is kept: ``$MUSCLE_ZOO_CACHE``, by default ``~/.cache/muscle_zoo``."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("MUSCLE_ZOO_CACHE") or f"{caches}/muscle_zoo").expanduser()


def require_no_pipe(path: Path) -> None:
    """Refuses what is there and is no file: a pipe would wait for a writer for ever, and a device may never end.

    Raises:
        ValueError: It is a folder, pipe, socket or device.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is always whole: either the old content or the new."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, into a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, as :func:`write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    try:
        require_no_pipe(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}); restore it or delete it") from None


def read_untrusted_json(path: Path) -> Any:
    """Reads a JSON file that may be hostile, within bounds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a file, is larger than ``JSON_LIMIT``, is not UTF-8, is not JSON, is nested too deeply, or
            holds a key twice, a number that is not finite, or half a character.
    """
    require_no_pipe(path)
    with path.open("rb") as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise ValueError(f"it is larger than {JSON_LIMIT >> 20} MiB")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_int=_whole_number,
            parse_float=_finite,
            parse_constant=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could not even be printed
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"it has the key {shown(key)} twice")
        values[key] = value
    return values


def _whole_number(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"{digits[:_DIGITS]}... is too large a number")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:_DIGITS]} is not a finite number")
    return number
