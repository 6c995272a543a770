"""Label Studio's JSON: an export's choices become the rows of a table of pictures and labels.

Both of its kinds are read: JSON, whose tasks have annotations, and JSON-MIN, whose tasks have a key for each control.
What a model suggested (``predictions``) is no label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import InputError, one_line

SUFFIX = ".json"
HEADER = ["path", "label", "adds_to"]
LABEL_KEYS = ("label", "choice", "class", "category", "choices")  # what the control may be called, in JSON-MIN
REMEDY = "give Label Studio's export as JSON or JSON-MIN, of a project with one choice a picture"

Rows = list[tuple[int, list[str]]]


def is_export(value: Any) -> bool:
    """Whether JSON is an export of Label Studio, rather than another list of pictures and labels."""
    if not isinstance(value, list) or not value or not all(isinstance(task, dict) for task in value):
        return False
    own = {"data", "annotations", "predictions", "annotator", "annotation_id", "lead_time", "choice", "choices"}
    return any(own & set(task) or re.match("/data/|[a-z0-9]+://", str(task.get("image"))) for task in value)


def rows_of_tasks(path: Path, tasks: Any) -> Rows:
    """The rows of an export: the task's number from 1, and path, label and adds_to of the picture.

    A task without an annotation has an empty label, one that several people annotated a row for each of them.

    Args:
        path: The file, for the errors.
        tasks: What it holds.

    Raises:
        InputError: It is no such export, or a picture has several choices.

    Example:
        >>> rows_of_tasks(Path("a.json"), [{"data": {"image": "/data/local-files/?d=a%20b.jpg"}}])
        [(1, ['a b.jpg', '', ''])]
    """
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise InputError(f"{path} holds no list of tasks; {REMEDY}")
    rows: Rows = []
    for number, task in enumerate(tasks, start=1):
        data = task.get("data", task)
        picture = _picture(data) if isinstance(data, dict) else ""
        if not picture:
            raise InputError(f"{path} task {number} names no picture; {REMEDY}")
        folder = str(data.get("adds_to") or "")
        labels = list(_labels(path, number, task)) or [""]
        rows += [(number, [picture, label, folder]) for label in dict.fromkeys(labels)]
    return rows


def _picture(data: dict[str, Any]) -> str:
    """A task's picture: the path that `suggest` wrote, or the file that its URL means."""
    for key in ("path", "image", "img", "picture", "photo", "file"):
        value = data.get(key)
        if isinstance(value, str) and value:
            return value if key == "path" else _file_of(value)
    return ""


def _file_of(url: str) -> str:
    parts = urlsplit(url)
    if local := parse_qs(parts.query).get("d"):  # of files beside the server
        return local[0]
    name = unquote(parts.path)
    if match := re.search(r"/data/upload/\d+/[0-9a-f]{8}-(.+)$", name):  # it puts eight digits before the name
        return match[1]
    return name.lstrip("/") if parts.scheme or name.startswith("/data/") else url


def _labels(path: Path, number: int, task: dict[str, Any]) -> Iterator[str]:
    if "annotations" in task or "data" in task:
        for annotation in task.get("annotations") or ():
            if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
                for result in annotation.get("result") or ():
                    if isinstance(result, dict) and result.get("type") == "choices":
                        yield from _choice(path, number, result.get("value"))
        return
    for key in LABEL_KEYS:
        if task.get(key):
            yield from _choice(path, number, task[key])
            return


def _choice(path: Path, number: int, value: Any) -> list[str]:
    """The one choice of an annotation."""
    choices = value.get("choices") if isinstance(value, dict) else [value]
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices) or len(choices) > 1:
        raise InputError(f"{path} task {number} has {one_line(repr(choices))} for a label; {REMEDY}")
    return [choice.strip() for choice in choices]
