"""Pictures that are there twice: in two classes, in training and in the test, or harmlessly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from ..errors import InputError
from ..files import content_sha256
from .images import UNKNOWN
from .listing import Labeled, Listing, first_of, pictures_in_words
from .picture_files import looks_like_a_picture
from .shard_files import PicturePath, PictureRoot

_ENDS = 4096  # bytes at each end of a file that are compared before all of it is read


def groups_of_twins(root: PictureRoot, names: Iterable[str]) -> list[list[str]]:
    """Groups of pictures with the same bytes, or that are one file by two paths; each of two or more names, in order.

    Only files of equal size are opened, and only those with equal ends are read whole.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        try:
            size = (root / name).stat().st_size
        except OSError:
            continue
        if size:  # an empty file is no picture
            by_size[size].append(name)
    groups: list[list[str]] = []
    for size, alike in by_size.items():
        if len(alike) > 1:
            by_ends: dict[tuple[bytes, bytes], list[str]] = defaultdict(list)
            for name in alike:
                if (ends := _ends(root / name, size)) is not None:
                    by_ends[ends].append(name)
            for candidates in by_ends.values():
                groups += _by_content(root, candidates, size) if len(candidates) > 1 else []
    return groups


def _by_content(root: PictureRoot, names: list[str], size: int) -> list[list[str]]:
    if size <= 2 * _ENDS:  # the ends are all of it
        return [names]
    by_hash: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_hash[_digest(root / name, _identity(root / name))].append(name)
    return [group for group in by_hash.values() if len(group) > 1]


def _ends(path: PicturePath, size: int) -> tuple[bytes, bytes] | None:
    """Both ends of a picture; None of what is none, such as a page of an error that was saved as many pictures."""
    try:
        with path.open("rb") as file:
            head = file.read(_ENDS)
            file.seek(max(0, size - _ENDS))
            return (head, file.read(_ENDS)) if looks_like_a_picture(head) else None
    except OSError:
        return None


def _identity(path: PicturePath) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


@cache
def _digest(path: PicturePath, identity: tuple[int, int, int]) -> str:
    try:
        with path.open("rb") as file:
            return content_sha256(file)
    except OSError:
        return str(path)


def settle_contradictions(listing: Listing) -> None:
    """Takes the label from pictures that are in two classes, and says so.

    Nobody but their owner knows which label is right, so they are kept without one: the first of them is an unlabeled
    picture, the others, and all in a test part, are left out.

    Raises:
        InputError: A class has no picture left.
    """
    before, listing.train = listing.train, _settle(listing, listing.train, "training")
    left = {label for _, label in listing.train}
    for label, class_name in enumerate(listing.class_names):
        if listing.train is not before and label not in left:
            raise InputError(
                f"{listing.root}: class {class_name!r} has no picture of its own; {listing.notes[-1].text}"
            )
    listing.validation = _settle(listing, listing.validation, "validation")
    listing.test = _settle(listing, listing.test, "test")


def _settle(listing: Listing, part: Labeled, called: str) -> Labeled:
    labels = {name: label for name, label in part if label != UNKNOWN}
    groups = [group for group in groups_of_twins(listing.root, labels) if len({labels[name] for name in group}) > 1]
    if not groups:
        return part
    in_words = [" = ".join(f"{name} ({listing.class_names[labels[name]]})" for name in group) for group in groups]
    fate = "count as unlabeled" if called == "training" else "are left out"
    listing.add(
        f"{pictures_in_words(len(groups))} of the {called} part in two classes, which {fate}: {first_of(in_words)}",
        [name for group in groups for name in group],
        decide=True,
    )
    out = {name for group in groups for name in group}
    kept = [(name, label) for name, label in part if name not in out]
    if called != "training":
        return kept
    unlabeled = [(name, label) for name, label in kept if label == UNKNOWN]
    unlabeled += [(group[0], UNKNOWN) for group in groups]
    return [item for item in kept if item[1] != UNKNOWN] + sorted(unlabeled)


def note_twins_of_the_test(listing: Listing) -> None:
    """Says which test pictures are labeled training pictures too."""
    for part, called in ((listing.test, "test"), (listing.validation, "validation")):
        labeled = [name for name, label in listing.train if label != UNKNOWN]
        tested = {name for name, _ in part}
        twins: dict[str, str] = {}
        for group in groups_of_twins(listing.root, [*labeled, *tested]) if tested else ():
            mine = [name for name in group if name not in tested]
            twins.update({name: mine[0] for name in group if name in tested} if mine else {})
        if twins:
            order = [name for name, _ in part if name in twins]
            listing.add(
                f"{len(twins)} {called} pictures are labeled training pictures too, the first is {order[0]} = "
                f"{twins[order[0]]}; accuracy on them says nothing",
                order,
                decide=True,
            )


def harmless_twins(listing: Listing) -> list[list[str]]:
    """Groups of pictures that are there twice without a contradiction: in one class, or with and without a label."""
    labels = dict(listing.train)
    tested = {name for name, _ in listing.test + listing.validation}
    groups = groups_of_twins(listing.root, listing.names)
    return [
        group
        for group in groups
        if not (tested & set(group) and {labels.get(name, UNKNOWN) for name in group} - {UNKNOWN})
    ]
