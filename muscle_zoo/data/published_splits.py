"""Label splits that others published, read from their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

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
            keys = (
                ("names",) if names and values.get("names") else ("labelled", "labeled", "label")
            )  # split.json's first
            values = next((values[key] for key in keys if key in values), None)
    except json.JSONDecodeError:
        values = [line.split()[0] for line in text.splitlines() if line.split()]
    if not isinstance(values, list) or not values:
        raise InputError(f"{field} lists no images; write one position or file name a line")
    whole = {name: index for index, name in enumerate(names)}
    last: dict[str, int | None] = {}
    for name, index in whole.items():
        short = name.rpartition("/")[2]
        last[short] = None if short in last else index
    found = []
    for value in values:
        position = whole.get(str(value), last.get(str(value).rpartition("/")[2]))
        number = re.fullmatch(r"(\d+)(_\w+\.\w+)?", str(value))
        if position is None and number is not None and (not number[2] or not names):
            position = int(number[1])
        if position is None:
            what = (
                "matches several file names"
                if str(value).rpartition("/")[2] in last
                else "is not among the training images"
            )
            raise InputError(f"{field}: {value!r} {what}; give positions or file names of the training images")
        found.append(position)
    return tuple(found)
