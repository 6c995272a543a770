"""JSON that programs write of pictures and labels, as the columns and rows of a table.

Read are lists of objects, ``{path: label}``, ``{label: [paths]}``, columns (as pandas writes them), pairs
(``{"labels": [[path, label], ...]}``), and COCO's, of which each picture has the categories of its annotations.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import InputError

Rows = list[tuple[int, list[str]]]

REMEDY = (
    "give a list of objects with path and label, an object of path: label, COCO's images, annotations and categories, "
    "or Label Studio's export"
)


def table_of_json(path: Path, value: Any) -> tuple[list[str], Rows, str]:
    """Names of the columns, numbered rows, and what it was taken for.

    Args:
        path: The file, for the errors.
        value: What it holds.

    Raises:
        InputError: It is none of the kinds, or COCO's with several categories for a picture.

    Example:
        >>> table_of_json(Path("a.json"), {"a.jpg": "cat", "b.jpg": 1})
        (['path', 'label'], [(1, ['a.jpg', 'cat']), (2, ['b.jpg', '1'])], 'a label for each path')
    """
    if isinstance(value, dict) and {"images", "annotations"} <= set(value):
        return ["path", "label"], _coco(path, value), "COCO's annotations"
    if isinstance(value, dict) and len(value) == 1 and _is_rows(inner := next(iter(value.values()))):
        value = inner
    if isinstance(value, dict) and value:
        return _of_object(path, value)
    if isinstance(value, list) and value:
        if all(isinstance(item, dict) for item in value):
            header = list(dict.fromkeys(str(key) for item in value for key in item))
            return header, _numbered([[_text(item.get(key)) for key in header] for item in value]), "a list of objects"
        if all(isinstance(item, list) and len(item) == 2 for item in value):
            return ["path", "label"], _numbered([[_text(cell) for cell in item] for item in value]), "pairs"
    raise InputError(f"{path} holds no table of pictures; {REMEDY}")


def _is_rows(value: Any) -> bool:
    """Whether it is a list of objects or pairs, and not of paths."""
    return isinstance(value, list) and bool(value) and not all(isinstance(item, str) for item in value)


def _of_object(path: Path, value: dict[str, Any]) -> tuple[list[str], Rows, str]:
    inner = list(value.values())
    if all(isinstance(item, (str, int, float)) for item in inner):
        return (
            ["path", "label"],
            _numbered([[key, _text(item)] for key, item in value.items()]),
            "a label for each path",
        )
    if all(isinstance(item, dict) for item in inner):
        if len({tuple(item) for item in inner}) == 1 and len(value) < len(inner[0]) + 2:  # pandas: columns of rows
            keys = list(inner[0])
            return list(value), _numbered([[_text(item[key]) for item in inner] for key in keys]), "columns"
        header = list(dict.fromkeys(str(key) for item in inner for key in item))
        rows = [[key, *(_text(item.get(name)) for name in header)] for key, item in value.items()]
        return ["path", *header], _numbered(rows), "an object for each path"
    if all(isinstance(item, list) for item in inner):
        plain = {key.lower() for key in value}
        if plain & {"path", "paths", "file_name", "filename", "image", "images", "file", "files"}:
            if len({len(item) for item in inner}) > 1:
                raise InputError(f"{path}: its columns {', '.join(value)} are not of one length; {REMEDY}")
            rows = [[_text(cell) for cell in row] for row in zip(*inner, strict=True)]
            return list(value), _numbered(rows), "columns"
        if all(isinstance(cell, str) for item in inner for cell in item):
            pairs = [[cell, key] for key, item in value.items() for cell in item]
            return ["path", "label"], _numbered(pairs), "a list of paths for each label"
    raise InputError(f"{path} is no table of pictures; {REMEDY}")


def _coco(path: Path, value: dict[str, Any]) -> Rows:
    try:
        names = {row["id"]: str(row["name"]) for row in value.get("categories", ())}
        files = {row["id"]: str(row["file_name"]) for row in value["images"]}
        having: dict[Any, list[str]] = defaultdict(list)
        for row in value["annotations"]:
            label = names.get(row["category_id"], str(row["category_id"]))
            if label not in having[row["image_id"]]:
                having[row["image_id"]].append(label)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: an entry of COCO's is without {error}; {REMEDY}") from None
    for image, labels in having.items():
        if len(labels) > 1:
            raise InputError(
                f"{path}: {files.get(image, image)!r} has annotations of {' and '.join(map(repr, labels[:3]))}, and a "
                "picture is of one class here; cut the objects out, or keep pictures of one category"
            )
    return _numbered([[file, *having.get(image, [""])] for image, file in files.items()])


def _numbered(rows: list[list[str]]) -> Rows:
    return list(enumerate(rows, start=1))


def _text(value: Any) -> str:
    """A cell; a list of one is that one, of several it is written as one, which no name is."""
    if isinstance(value, list):
        inner = list(dict.fromkeys(map(_text, value)))
        return str(inner) if len(inner) > 1 else "".join(inner)
    return "" if value is None else str(value)
