"""Pictures in WebDataset's shards as a user's own: ``wds:PATTERN`` becomes an index of the tar files, once.

The index (name, place and label of each picture) lies in ``shards`` of the cache, and is what is given on as the data.
A picture is then read from its place by a seek, so a batch is a function of (seed, step, position) as with files in a
folder: the same for any number of processes and readers, and after a resume. WebDataset's own pipeline is not used for
that reason: it reads shards one after the other through a buffer in which they are shuffled, so the order depends on
how many processes and readers there are, and cannot be gone on with from a step. Python's own ``tarfile`` tells the
places; a package would add nothing to it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from ..errors import InputError, suggest
from ..files import cache_root, read_json, write_text
from .listing import Listing, first_of, pictures_in_words
from .part_names import LABELED, TEST, UNLABELED, VALIDATION
from .picture_csv import fill_parts
from .shard_files import Shard, ShardFolder
from .shard_index import LABELS, ShardFault, ShardIndex, index_shard
from .shard_names import PREFIX, common_folder, find_shards, part_of_shard

SUFFIX = ".shards"
CLASSES = "classes.txt"  # beside the shards: the name of each class, one a line, from 0
_FORMAT = 1


def indexed_shards(text: str) -> Path:
    """The index of some shards, made where there is none or a shard has changed.

    Args:
        text: ``wds:PATTERN``, see :func:`muscle_zoo.data.shard_names.find_shards`.

    Returns:
        A file that :func:`list_shards` reads.

    Raises:
        InputError: There are no such shards, some cannot be read, or a label is none.
    """
    paths = find_shards(text)
    file = _index_file(text)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):  # several processes begin at once
        shards = [Shard.of(path) for path in paths]
        before = _kept(file)
        if list(before) != shards:
            entries = _index(text, shards, before)
            content = {"format": _FORMAT, "given": text, "shards": entries}
            write_text(file, json.dumps(content, ensure_ascii=False) + "\n")
    return file


def _index_file(text: str) -> Path:
    """Where the index of a pattern is: the same when shards are added, so that a run can say which."""
    patterns = [Path(pattern).expanduser().absolute() for pattern in text.removeprefix(PREFIX).split("::")]
    key = hashlib.sha256("\n".join(map(str, patterns)).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    folder = patterns[0]
    while folder.name and not folder.is_dir():
        folder = folder.parent
    name = folder.name or "pictures"
    return cache_root() / "shards" / key / name / f"{name}{SUFFIX}"


def _kept(file: Path) -> dict[Shard, dict[str, Any]]:
    """What an index says of each shard; nothing where there is none that can be read."""
    try:
        return _entries(read_json(file))
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _entries(content: Any) -> dict[Shard, dict[str, Any]]:
    if content["format"] != _FORMAT:
        return {}
    return {Shard(Path(one["path"]), one["size"], one["mtime_ns"]): one for one in content["shards"]}


def _index(text: str, shards: Sequence[Shard], before: dict[Shard, dict[str, Any]]) -> list[dict[str, Any]]:
    """Looks into the shards that are not known as they are."""
    faults: list[str] = []
    entries = []
    for shard in tqdm(shards, desc="indexing", unit="shard", disable=None, leave=False):
        try:
            inside = before.get(shard) or vars(index_shard(shard))
        except ShardFault as fault:
            faults.append(f"{shard.path.name} ({fault})")
            continue
        entries.append({**inside, "path": str(shard.path), "size": shard.size, "mtime_ns": shard.mtime_ns})
    if faults:
        raise InputError(
            f"--data {text}: {len(faults)} of {len(shards)} shards cannot be read: {first_of(faults, 20)}; fetch them "
            "again, or leave them out of the pattern"
        )
    return entries


def list_shards(file: Path) -> Listing:
    """Lists the pictures of an index: shards whose names say train, val, test or unlabeled are these parts.

    Raises:
        InputError: A shard has changed, they have no labels of two classes, or the index cannot be read.
    """
    entries, given = _read_index(file)
    _require_unchanged(entries, given)
    paths = [shard.path for shard in entries]
    root = common_folder(paths)
    names = [path.relative_to(root).as_posix() for path in paths]
    parts = _parts(names)
    used = [number for number, part in enumerate(parts) if part is not None]
    indexes = {number: _index_of(entry) for number, entry in enumerate(entries.values())}
    kind = _kind(indexes[number] for number in used)
    class_names = _class_names(root)
    members: dict[str, tuple[int, int, int]] = {}
    pictures: list[tuple[str, str, str]] = []
    unlabeled: list[str] = []
    for number in used:
        part = parts[number] or LABELED
        for inside, offset, size, label in indexes[number].pictures:
            name = f"{names[number]}/{inside}"
            word = _word(label, class_names, name) if label and label[0] == kind and part != UNLABELED else ""
            if part in (TEST, VALIDATION) and not word:
                unlabeled.append(name)
                continue
            members[name] = (number, offset, size)
            pictures.append((name, word, part))
    listing = Listing(ShardFolder(root, tuple(entries), members), (), layout=_layout(names, parts, kind))
    _require_classes(pictures, given, listing.layout)
    fill_parts(listing, pictures)
    _note(listing, [indexes[number] for number in used], [names[number] for number in used], unlabeled)
    if left_out := [name for name, part in zip(names, parts, strict=True) if part is None]:
        listing.add(
            f"{len(left_out)} shards are of no part that is known beside train, and not used ({first_of(left_out)})",
            left_out,
            decide=True,
        )
    return listing


def _read_index(file: Path) -> tuple[dict[Shard, dict[str, Any]], str]:
    """The shards of an index, and what was given for them."""
    try:
        content = read_json(file)
        return _entries(content), content["given"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read as an index ({error}); delete it, and give --data {PREFIX}..."
        ) from None


def _require_classes(pictures: Sequence[tuple[str, str, str]], given: str, layout: str) -> None:
    """Refuses shards that have not two classes to learn, or judge by one that is not learned."""
    trained = {word for _, word, part in pictures if word and part == LABELED}
    if len(trained) < 2:
        raise InputError(
            f"--data {given}: {pictures_in_words(len(pictures))}, and labels of fewer than two classes in the training "
            f"part; add KEY.cls, KEY.json or KEY.txt to the samples ({layout})"
        )
    if strange := next((one for one in pictures if one[1] and one[1] not in trained), None):
        raise InputError(f"{strange[0]}: class {strange[1]!r} has no training picture; {suggest(strange[1], trained)}")


def _require_unchanged(entries: Iterable[Shard], given: str) -> None:
    for shard in entries:
        try:
            now = Shard.of(shard.path)
        except OSError as error:
            raise InputError(f"{shard.path} cannot be read ({error.strerror}); restore it") from None
        if now != shard:
            raise InputError(f"{shard.path} has changed since it was indexed; give --data {given} again")


def _index_of(entry: dict[str, Any]) -> ShardIndex:
    index = ShardIndex(**{name: value for name, value in entry.items() if name not in Shard._fields})
    index.unused = Counter(index.unused)
    return index


def _parts(names: Sequence[str]) -> list[str | None]:
    """The part of each shard; one that says nothing is for training, but None beside others that say so."""
    parts = [part_of_shard(name) for name in names]
    return [part or (None if LABELED in parts else LABELED) for part in parts]


def _kind(indexes: Iterable[ShardIndex]) -> str:
    """Which files the labels are in: of a whole set, so that captions are no classes of what has no label."""
    kinds = {label[0] for index in indexes for *_, label in index.pictures if label}
    return next((kind for kind in LABELS if kind in kinds), "")


def _class_names(root: Path) -> list[str]:
    """What stands in the file of the classes' names; nothing where there is none.

    Raises:
        InputError: It cannot be read, or has a name twice.
    """
    file = root / CLASSES
    if not file.is_file():
        return []
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); write one name a line, in UTF-8") from None
    while names and not names[-1]:
        names.pop()
    if twice := [name for name, count in Counter(names).items() if count > 1 or not name]:
        raise InputError(
            f"{file}: the name {twice[0]!r} is empty or there twice; write each class on a line of its own"
        )
    return names


def _word(label: Sequence[Any], class_names: Sequence[str], name: str) -> str:
    """The class that a label says."""
    kind, value = label
    if not class_names:
        return str(value)
    if isinstance(value, int) and value < len(class_names):
        return class_names[value]
    if value not in class_names:
        raise InputError(
            f"{name}: label={value!r} ({kind}) is none of the {len(class_names)} in {CLASSES}; mend one of them"
        )
    return str(value)


def _layout(names: Sequence[str], parts: Sequence[str | None], kind: str) -> str:
    """How the shards were understood, in words."""
    words = []
    for part in dict.fromkeys(filter(None, parts)):
        of_part = [name for name, of in zip(names, parts, strict=True) if of == part]
        words.append(f"{part}: {len(of_part)} shard{'' if len(of_part) == 1 else 's'} ({first_of(of_part)})")
    return ", ".join([*words, f"labels in .{kind}" if kind else "no labels"])


def _note(listing: Listing, indexes: Sequence[ShardIndex], names: Sequence[str], unlabeled: Sequence[str]) -> None:
    """Says what of the shards was left out."""

    def below(field: str) -> list[str]:
        return [f"{name}/{key}" for name, index in zip(names, indexes, strict=True) for key in getattr(index, field)]

    if twice := below("twice"):
        text = f"{len(twice)} samples have a file twice in a shard and are left out ({first_of(twice)})"
        listing.add(text, twice, decide=True)
    if several := below("several"):
        text = f"{len(several)} samples have several pictures and are left out ({first_of(several)})"
        listing.add(text, several, decide=True)
    if unlabeled:
        text = f"{pictures_in_words(len(unlabeled))} of the test or validation part without a label, left out"
        listing.add(f"{text} ({first_of(unlabeled)})", unlabeled, decide=True)
    if cut := [name for name, index in zip(names, indexes, strict=True) if not index.is_ended]:
        text = f"{len(cut)} shards are without the mark of a tar file's end, and may be cut ({first_of(cut)})"
        listing.add(text, cut, decide=True)
    if empty := [name for name, index in zip(names, indexes, strict=True) if not index.pictures]:
        listing.add(f"{len(empty)} shards hold no picture that is taken ({first_of(empty)})", empty)
    if unused := sum((index.unused for index in indexes), Counter[str]()):
        kinds = first_of((f"{kind}: {number}" for kind, number in unused.most_common()), 6)
        listing.add(f"{unused.total()} files of the samples are not used ({kinds})")
    if links := sum(index.links for index in indexes):
        listing.add(f"{links} links and the like in the shards are left out")
    if alone := sum(index.alone for index in indexes):
        listing.add(f"{alone} samples without a picture are left out")
