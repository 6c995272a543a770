"""What is to be said about a folder or CSV of the user's own pictures before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .images import UNKNOWN
from .listing import Labeled, Listing, Note
from .picture_folder import find_pictures
from .picture_survey import Survey, survey
from .twins import harmless_twins

FEW_SIZES = 6  # that are shown one by one


@dataclass(frozen=True)
class Report:
    """What :func:`check_pictures` found.

    Attributes:
        listing: How the folder or CSV is understood.
        headers: Sizes and modes, and the pictures that cannot be read.
        twins: Groups of pictures that are there twice, without a contradiction.
        problem: Why nothing can be trained on it; empty where it can.
    """

    listing: Listing
    headers: Survey
    twins: tuple[tuple[str, ...], ...]
    problem: str = ""

    @property
    def needs_a_decision(self) -> bool:
        """Whether somebody has to decide something: what contradicts itself, or would be left out as it is."""
        wrong = self.problem or self.headers.bad or not self.can_be_evaluated
        return bool(wrong or any(note.decide for note in self.listing.notes))

    @property
    def can_be_evaluated(self) -> bool:
        """Whether there are test pictures, or labels that can be held out."""
        labels = Counter(label for name, label in self.listing.train if name not in self.headers.bad)
        return bool(self.listing.test) or any(labels[label] > 1 for label in range(len(self.listing.class_names)))

    def lines(self) -> list[str]:
        """The report as a person reads it."""
        listing = self.listing
        lines = [f"layout     {listing.layout or 'a table'}", f"           below {listing.root}"]
        lines += self._class_lines()
        lines += _size_lines(self.headers)
        lines += _notes_lines("to decide", [note for note in listing.notes if note.decide])
        lines += _notes_lines("noted", [note for note in listing.notes if not note.decide])
        if bad := self.headers.bad:
            lines += [f"unreadable {len(bad)} of {len(listing.names)} pictures, which are left out:"]
            lines += [f"           {name} ({why})" for name, why in bad.items()]
        if self.twins:
            lines += [f"twice      {len(self.twins)} pictures are there more than once, without a contradiction:"]
            lines += [f"           {' = '.join(group)}" for group in self.twins]
        if self.problem:
            lines += [f"problem    {self.problem}"]
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        """The last line; it agrees with what was advised before: what a recipe has to be told is not nothing."""
        if self.needs_a_decision:
            return "something needs a decision"
        told = ["fold=dev"] if not self.listing.test else []
        told += [f"image_size={_usual_side(self.headers)}"] if len(self.headers.sizes) > 1 else []
        if not told:
            return "nothing needs a decision"
        return (
            "nothing needs a decision for `muscle-zoo train FOLDER`, which chooses itself; to a recipe by its name, "
            f"train NAME --data FOLDER, give {' '.join(told)}"
        )

    def _class_lines(self) -> list[str]:
        parts = {
            "labeled": self._counts(self.listing.train),
            "validation": self._counts(self.listing.validation),
            "test": self._counts(self.listing.test),
        }
        used = [part for part in parts if part == "labeled" or any(parts[part].values())]
        names = self.listing.class_names
        width = max([len("classes"), *map(len, names)])
        lines = [f"{f'{len(names)} classes':<{width}}  " + "  ".join(f"{part:>10}" for part in used)]
        for label, name in enumerate(names):
            lines.append(f"{name:<{width}}  " + "  ".join(f"{parts[part][label]:>10}" for part in used))
        counts = [parts["labeled"][label] for label in range(len(names))]
        sums = [sum(count for label, count in parts[part].items() if label != UNKNOWN) for part in used]
        lines.append(f"{'in all':<{width}}  " + "  ".join(f"{total:>10}" for total in sums))
        lines += [f"unlabeled  {parts['labeled'][UNKNOWN]} pictures", _budget_line(counts)]
        return lines if "test" in used else [*lines, _evaluation_line(counts)]

    def _counts(self, part: Labeled) -> Counter[int]:
        return Counter(label for name, label in part if name not in self.headers.bad)


def _budget_line(counts: Sequence[int]) -> str:
    """Which label budgets there are pictures for."""
    line = f"budget     labels=all is {sum(counts)}"
    if counts and min(counts) < max(counts):
        line += f"; as many of each class up to {len(counts) * min(counts)}, in proportion above"
    return line


def _evaluation_line(counts: Sequence[int]) -> str:
    """What a network can be evaluated on where there are no test pictures."""
    if all(count < 2 for count in counts):
        return "evaluation no test pictures, and one label of each class at most: nothing can be held out"
    single = sum(count == 1 for count in counts)
    but = f", but none of the {single} classes with one label" if single else ""
    return f"evaluation no test pictures: give fold=dev, which holds out a fifth of the labels of each class{but}"


def _usual_side(headers: Survey) -> int:
    """An even number of pixels that half of the pictures have at least, up to what networks are trained on."""
    return min(224, max(8, 2 * round(median(min(size) for size in headers.sizes.elements()) / 2)))


def _size_lines(headers: Survey) -> list[str]:
    if not headers.sizes:
        return []
    common = headers.sizes.most_common()
    if len(common) <= FEW_SIZES:
        shown = ", ".join(f"{width}x{height} ({count})" for (width, height), count in common)
    else:
        by_area = sorted(headers.sizes, key=lambda size: (size[0] * size[1], size))
        ((width, height), count) = common[0]
        shown = (
            f"{len(common)} sizes, {by_area[0][0]}x{by_area[0][1]} to {by_area[-1][0]}x{by_area[-1][1]}, most often "
            f"{width}x{height} ({count})"
        )
    shown += ": give image_size" if len(common) > 1 else ""
    modes = ", ".join(f"{mode} ({count})" for mode, count in headers.modes.most_common())
    return [f"sizes      {shown}", f"kinds      {modes}"]


def _notes_lines(title: str, notes: Sequence[Note]) -> list[str]:
    lines = []
    for note in notes:
        lines.append(f"{title:<10} {note.text}")
        lines += [f"           {name}" for name in note.names]
    return lines


def check_pictures(root: Path, whole: bool = True) -> Report:
    """Lists a user's pictures, reads them, and compares them with each other; nothing is changed.

    Args:
        root: A folder or CSV, see :func:`muscle_zoo.data.picture_folder.find_pictures`.
        whole: Decode all of each picture, rather than read its header alone.

    Raises:
        InputError: It is not there, or cannot be understood.
    """
    listing = find_pictures(root)
    headers = survey(listing.root, listing.names, whole=whole)
    twins = tuple(tuple(group) for group in harmless_twins(listing))
    return Report(listing, headers, twins, _problem(listing, headers))


def _problem(listing: Listing, headers: Survey) -> str:
    for label, name in enumerate(listing.class_names):
        if all(picture in headers.bad for picture, of in listing.train if of == label):
            return f"no labeled picture of class {name!r} can be read; give others, or leave the class out"
    return ""
