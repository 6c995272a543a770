"""Which tar files ``wds:PATTERN`` means, and of which part of the data set each is."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..errors import InputError
from .listing import natural_key
from .part_names import part_of, words_of
from .picture_files import is_junk

PREFIX = "wds:"
FORM = "write wds:FOLDER, wds:FOLDER/train-{000..009}.tar or wds:'FOLDER/*.tar'"
MOST_SHARDS = 100_000
_PACKED = re.compile(r".*\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)", re.IGNORECASE)


def find_shards(text: str) -> list[Path]:
    """The tar files that a pattern means, as whole paths: in its order, those of a folder or ``*`` in natural order.

    Args:
        text: ``wds:`` and a folder, a file, or a pattern in braces (``{000..009}``, ``{a,b}``) or with ``*``; several
            are separated by ``::``, as WebDataset has it.

    Raises:
        InputError: There are none, one of those that braces name is not there, or they are not local tar files.

    Example:
        >>> find_shards("wds:shards/train-{000..001}.tar")  # doctest: +SKIP
        [PosixPath('/data/shards/train-000.tar'), PosixPath('/data/shards/train-001.tar')]
    """
    wanted = text.removeprefix(PREFIX)
    if re.match(r"(?i)[a-z][a-z0-9+.-]*:/|pipe:", wanted):
        raise InputError(f"--data {text}: shards are read from this machine's disk alone; download them, and {FORM}")
    if not wanted:
        raise InputError(f"--data {text} names no shards; {FORM}")
    found: list[Path] = []
    missing: list[str] = []
    for pattern in wanted.split("::"):
        literal = Path(pattern).expanduser()
        names = [pattern] if literal.exists() else list(islice(expand_braces(pattern), MOST_SHARDS + 1))
        if len(names) > MOST_SHARDS:
            raise InputError(f"--data {text} names more than {MOST_SHARDS:,} shards; mend the numbers in the braces")
        for name in names:
            files = _files(Path(name).expanduser())
            found += files
            missing += [] if files else [name]
    if missing:
        others = f" nor {len(missing) - 1} others of it" if len(missing) > 1 else ""
        raise InputError(f"--data {text}: no shard is {missing[0]}{others}; {FORM}")
    if packed := [path for path in found if _PACKED.fullmatch(path.name)]:
        raise InputError(
            f"--data {text}: {packed[0]} is compressed ({len(packed)} of {len(found)} are), so no picture can be read "
            "from its place in it; unpack it to a .tar (gunzip, or the like)"
        )
    return list(dict.fromkeys(path.absolute() for path in found))


def _files(path: Path) -> list[Path]:
    """The tar files of a folder, of a pattern with ``*``, or a file itself; compressed ones too, to be refused."""
    if path.is_dir():
        paths = [inside for inside in path.rglob("*") if not is_junk(inside.name)]
    elif path.exists() or not glob.has_magic(str(path)):
        return [path] if path.is_file() else []
    else:
        paths = list(map(Path, glob.glob(str(path), recursive=True)))
    files = [path for path in paths if path.name.lower().endswith(".tar") or _PACKED.fullmatch(path.name)]
    return sorted((path for path in files if path.is_file()), key=lambda path: natural_key(path.as_posix()))


def expand_braces(text: str) -> Iterator[str]:
    """All that a pattern in braces stands for, as a shell has it.

    Example:
        >>> list(expand_braces("{train-{08..10},val-0}.tar"))
        ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-0.tar']
    """
    for start, end in _braces(text):
        inside = text[start + 1 : end]
        if (range_of := re.fullmatch(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?", inside)) is not None:
            words = _numbers(*range_of.groups())
        elif len(pieces := _pieces(inside)) > 1:
            words = (word for piece in pieces for word in expand_braces(piece))
        else:
            continue  # {x} means itself
        rest = None  # not before the first word: of a hostile pattern only some are taken
        for word in words:
            rest = list(islice(expand_braces(text[end + 1 :]), MOST_SHARDS + 1)) if rest is None else rest
            yield from (text[:start] + word + after for after in rest)
        return
    yield text


def _braces(text: str) -> Iterator[tuple[int, int]]:
    """Where each brace that is closed begins and ends, the outer ones first."""
    opened: list[int] = []
    pairs = []
    for place, sign in enumerate(text):
        if sign == "{":
            opened.append(place)
        elif sign == "}" and opened:
            pairs.append((opened.pop(), place))
    yield from sorted(pairs)


def _pieces(text: str) -> list[str]:
    """The parts of a text between its commas, but for those in braces."""
    pieces, depth = [""], 0
    for sign in text:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += sign
    return pieces


def _numbers(first: str, last: str, step: str | None) -> Iterator[str]:
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) and max(len(first), len(last)) > 1 else 0
    start, stop, by = int(first), int(last), max(1, int(step or 1))
    numbers = range(start, stop + 1, by) if start <= stop else range(start, stop - 1, -by)
    return (f"{number:0{width}}" for number in numbers)


def part_of_shard(name: str) -> str | None:
    """The part that a shard is of, by its name or, where that says nothing, by the folders that it is in.

    Args:
        name: Below the folder of all shards.

    Raises:
        InputError: It says two things.

    Example:
        >>> [part_of_shard(name) for name in ("imagenet-val-000012.tar", "test/0.tar", "shard-0.tar")]
        ['validation', 'test', None]
    """
    folders = name.removesuffix(".tar").split("/")
    for word in reversed(folders):
        plain = re.sub(r"(?:[-_. ]*\d+(?:[-_. ]*of)?)+$", "", word)
        if (part := part_of(plain)) is not None:
            return part
        known = [said for said in words_of(plain) if part_of(said)]
        if known and (part := part_of("-".join(known))) is None:
            raise InputError(f"{name}: its name says {' and '.join(known)}; rename the shard to one of them")
        if known:
            return part
    return None


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that all shards lie below."""
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder
