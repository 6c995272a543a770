"""Which columns of a data set of the Hub hold the pictures and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, suggest

_IMAGES = ("image", "img", "picture", "photo", "pixel_values")
_LABELS = ("label", "labels", "fine_label", "class", "category", "target", "species")


@dataclass(frozen=True)
class Columns:
    """The columns of a data set.

    Attributes:
        image: Its pictures.
        label: Their labels; empty where they have none.
        class_names: What the numbers of the labels stand for; empty where the labels are words or plain numbers.
    """

    image: str
    label: str = ""
    class_names: tuple[str, ...] = ()

    def label_of(self, row: Mapping[str, Any]) -> str:
        """The label of a row; empty where it has none: nothing, or a negative number."""
        value = row[self.label] if self.label else None
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0):
            return ""
        return self.class_names[value] if self.class_names else str(value).strip()


def columns_of(name: str, features: Mapping[str, Any], image: str = "", label: str = "") -> Columns:
    """Finds the columns of pictures and labels.

    Args:
        name: Of the data set, for the errors.
        features: Type of each column, as ``datasets`` has them.
        image: The column of pictures, if it is said.
        label: The column of labels, if it is said.

    Raises:
        InputError: There is no column of pictures, several that may be meant, or a picture has several labels.
    """
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    if not images:
        raise InputError(
            f"{name} has no column of pictures (it has {', '.join(f'{c}: {k}' for c, k in kinds.items())}); give "
            "another data set, or make it an Image column"
        )
    image = _one(name, "image", image, images, _IMAGES)
    classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    words = [
        column for column in kinds if column.lower() in _LABELS and getattr(features[column], "dtype", "") in _PLAIN
    ]
    several = [column for column in kinds if column.lower() in _LABELS and kinds[column] in ("List", "Sequence")]
    if several and not classes and not words:
        raise InputError(f"{name}: a picture has several {several[0]}, and is of one class here; give another data set")
    known = classes or words
    if label or known:
        label = _one(name, "label", label, [*known, *([label] if label in kinds else [])], _LABELS)
    return Columns(image, label, tuple(getattr(features[label], "names", None) or ()) if label else ())


_PLAIN = {"string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}


def _one(name: str, what: str, asked: str, there: list[str], usual: tuple[str, ...]) -> str:
    """The column that is asked for, the only one, or the one with the usual name."""
    if asked:
        if asked not in there:
            raise InputError(f"{name}: {what}={asked} is no such column; {suggest(asked, there)}")
        return asked
    named = [column for column in usual if column in there]
    if len(set(there)) > 1 and not named:
        raise InputError(f"{name}: the {what} may be {' or '.join(there)}; write hf:ORG/NAME?{what}={there[0]}")
    return (named or there)[0]
