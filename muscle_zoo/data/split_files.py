"""Label splits that others published, read from their files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from ..errors import InputError


def parse_given(field: str, text: str, names: Sequence[str], dataset: str = "") -> tuple[int, ...]:
    """Reads a published list of labeled images.

    Args:
        field: What the text was read from, for the errors.
        text: JSON: a list, FixMatch's ``{"label": [...]}`` or this package's split.json; or text with one image a line,
            its first word, as Label Propagation's lists. An image is a position among the training images, a file name
            (whole, or the last part of it), or ``POSITION_anything.png`` where the data set has no file names.
        names: File names of the training images, if they have any.
        dataset: Name of the data set; a split.json of another one is refused.

    Returns:
        Positions, in the order given.

    Raises:
        InputError: An image is not among the training images.
    """
    try:
        values = json.loads(text)
        if isinstance(values, Mapping):
            if dataset and values.get("dataset", dataset) != dataset:
                raise InputError(f"{field} is a split of {values['dataset']}, not of {dataset}; give one of {dataset}")
            # split.json's names come before its positions: they hold when pictures were added since.
            keys = ("names",) if names and values.get("names") else ("labelled", "labeled", "label")
            values = next((values[key] for key in keys if key in values), None)
    except json.JSONDecodeError:
        values = [line.split()[0] for line in text.splitlines() if line.split()]
    if not isinstance(values, list) or not values:
        raise InputError(f"{field} lists no images; write one position or file name a line")
    return tuple(_find_positions(field, values, names))


def _find_positions(field: str, values: Sequence[object], names: Sequence[str]) -> Iterator[int]:
    """The position of each value: by whole file name, else by its last part, else by number."""
    by_name = {name: index for index, name in enumerate(names)}
    by_last_part: dict[str, int | None] = {}  # None where several names end alike
    for name, index in by_name.items():
        last_part = name.rpartition("/")[2]
        by_last_part[last_part] = None if last_part in by_last_part else index
    for value in map(str, values):
        last_part = value.rpartition("/")[2]
        position = by_name.get(_longest_tail(value, by_name), by_last_part.get(last_part))
        number = re.fullmatch(r"(\d+)(_\w+\.\w+)?", value)
        if position is None and number is not None and (not number[2] or not names):
            position = int(number[1])
        if position is None:
            problem = "matches several file names" if last_part in by_last_part else "is not among the training images"
            raise InputError(f"{field}: {value!r} {problem}; give positions or file names of the training images")
        yield position


def _longest_tail(value: str, names: Mapping[str, int]) -> str:
    """A name as it is; of a path from elsewhere (whole, or with ``..``) its longest end that is a name."""
    parts = value.split("/")
    if not value.startswith("/") and ".." not in parts:
        return value
    tails = ("/".join(parts[start:]) for start in range(len(parts) - 1))
    return next((tail for tail in tails if tail in names), value)
