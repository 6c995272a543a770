"""Predictions as a CSV, written while they come: however many pictures there are, none of it is kept in memory."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..errors import InputError, Notice
from .predict import Prediction

COLUMNS = ("path", "label", "probability")


class PredictionTable:
    """A CSV of ``path,label,probability,class_1,probability_1,...``, a row for each picture that can be read.

    ``label`` is ``class_1``, or ``unsure``. Until the table is whole it is called ``FILE.part``; what was written of
    one that was interrupted stays under that name, so that no program takes it for all of them.

    Args:
        path: The file. One that is there is replaced at the end, and that is said.

    Raises:
        InputError: It cannot be written.

    Example:
        >>> with PredictionTable(tmp / "out.csv") as table:
        ...     table.add(Prediction("a.png", (("cat", 0.75), ("dog", 0.25))))
        >>> (tmp / "out.csv").read_text().splitlines()[1]
        'a.png,cat,0.75,cat,0.75,dog,0.25'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._width = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            # A file name that is not UTF-8 goes back to the bytes that it was.
            self._file: TextIO = self._part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error}); give another file") from None
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._width and error is None:
            self._writer.writerow(COLUMNS)  # no picture could be read
        self._file.close()
        if error is None:
            if self.path.exists():
                warnings.warn(f"{self.path} was there before, and is replaced", Notice, stacklevel=2)
            self._part.replace(self.path)
        elif not self._width:
            self._part.unlink(missing_ok=True)

    def add(self, prediction: Prediction) -> None:
        """Writes the row of a picture that could be read."""
        if not self._width:
            self._width = len(prediction.classes)
            numbered = [f"{what}_{i}" for i in range(1, self._width + 1) for what in ("class", "probability")]
            self._writer.writerow([*COLUMNS, *numbered])
        classes = [cell for name, probability in prediction.classes for cell in (name, _digits(probability))]
        self._writer.writerow([prediction.file, prediction.label, classes[1], *classes])


def _digits(probability: float) -> str:
    return f"{probability:.6g}"
