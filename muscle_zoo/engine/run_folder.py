"""The run folder: which recipe it belongs to, how far it came, and its log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from ..checkpoints.factory import Normalization
from ..checkpoints.target import runs_inside
from ..errors import START_OVER, InputError
from ..files import read_json, write_json, write_text
from ..recipes import Recipe, changes
from .folder_lock import FolderLock

# What may lie in a folder before its run is begun: which pictures it is of, and what was compared for it (auto/).
BEFORE_A_RUN = ("pictures.json", "comparison.json", "out_of_fold.safetensors", "calibration.json", "comparison")


class RunFolder:
    """``recipe.json split.json log.jsonl status.json curves.png state/ export/`` of one run.

    A run that starts from weights has ``normalization.json`` too: it goes on without them. Where labeled pictures were
    held out before, ``calibration.json`` says how sure of them the networks were.

    Args:
        path: The folder; :meth:`open` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.json"
        self.split_file = path / "split.json"
        self.normalization_file = path / "normalization.json"
        self.calibration_file = path / "calibration.json"
        self.log_file = path / "log.jsonl"
        self.status_file = path / "status.json"
        self.curves_file = path / "curves.png"
        self.state_dir = path / "state"
        self.export_dir = path / "export"
        self._lock = FolderLock(path)
        self._open_log: FileIO | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder, which is created if need be; a process that is killed lets go.

        Raises:
            InputError: Another process is in it.
        """
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._acquire()
        try:
            yield
        finally:
            self.close_log()
            self._lock.release()
            for folder in new:  # wrong input leaves nothing behind
                with suppress(OSError):
                    folder.rmdir()

    def _acquire(self) -> None:
        self._make()
        try:
            mine = self._lock.acquire()
        except OSError as error:
            raise InputError(f"run folder {self.path} cannot be locked ({error.strerror}); give another") from None
        if not mine:
            raise InputError(f"run folder {self.path} is in use by another process; wait for it, or give another")

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run folder {self.path} cannot be made ({error.strerror}); give another") from None

    def check(self, recipe: Recipe) -> None:
        """Makes sure that the folder is new, empty, or this recipe's.

        Raises:
            InputError: It holds another recipe or something else.
        """
        self.check_kind()
        if self.status_file.exists() and not self.recipe_file.exists():
            raise InputError(f"{self.recipe_file} is missing; restore it, give another folder, or {START_OVER}")
        if self.recipe_file.exists():
            previous = Recipe.from_dict(self._read_object(self.recipe_file))
            if previous != recipe:
                raise InputError(
                    f"run folder {self.path} holds another recipe ({_difference(previous, recipe)}); give another "
                    f"folder, or {START_OVER}"
                )

    def check_kind(self) -> None:
        """Makes sure that the folder is new, empty, or some run's.

        Raises:
            InputError: It is something else.
        """
        if self.path.exists() and self.path.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise InputError(f"run folder {self.path} is the working directory or above it; give a folder of its own")
        occupied = self.path.is_file() or (
            self.path.is_dir() and any(e.name not in (".lock", *BEFORE_A_RUN) for e in self.path.iterdir())
        )
        if occupied and not (self.recipe_file.exists() or self.status_file.exists()):
            inside = runs_inside(self.path)
            raise InputError(f"{self.path} {inside or 'exists and is not a run folder; give another folder'}")

    def open(self, recipe: Recipe, normalization: Normalization | None = None) -> None:
        """Creates the folder for a recipe, and says how its images are normalized; :meth:`check` first."""
        self._make()
        if recipe.init and normalization is not None and not self.normalization_file.exists():
            write_json(self.normalization_file, dict(zip(("mean", "std"), normalization, strict=True)))
        if not self.recipe_file.exists():
            write_json(self.recipe_file, recipe.to_dict())

    def set_aside(self) -> Path | None:
        """Renames the folder to the first free ``NAME.old-K``, so that nothing is lost; None if there is nothing."""
        if not self.path.is_dir() or all(entry.name == ".lock" for entry in self.path.iterdir()):
            return None
        self.close_log()
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(target)
        if self._lock.held:  # the new folder is this process's as the old one was, which stays locked until then
            (target / self._lock.path.name).unlink(missing_ok=True)
            self._acquire()
        return target

    def read_status(self) -> dict[str, Any]:
        """The last status; empty for a new folder."""
        if not self.status_file.exists():
            return {}
        status = self._read_object(self.status_file)
        if type(status.get("step", 0)) is not int:
            raise InputError(f"{self.status_file}: step={status['step']!r} is no number; restore it, or {START_OVER}")
        return status

    def read_split(self) -> dict[str, Any] | None:
        """split.json; None for a new folder."""
        return self._read_object(self.split_file) if self.split_file.exists() else None

    def read_normalization(self, recipe: Recipe) -> Normalization | None:
        """The normalization that the run was begun with; None for a new folder, and where it is the data set's own.

        Raises:
            InputError: It starts from weights, and does not say how it normalizes its images.
        """
        if not recipe.init or not self.recipe_file.exists():
            return None
        if not self.normalization_file.exists():
            raise InputError(
                f"{self.normalization_file} is missing (older versions normalized by the data set's mean); restore it, "
                f"or {START_OVER}"
            )
        values = self._read_object(self.normalization_file)
        try:
            mean, std = (tuple(float(number) for number in values[key]) for key in ("mean", "std"))
        except (LookupError, TypeError, ValueError):
            raise InputError(f"{self.normalization_file} is damaged; restore it, or {START_OVER}") from None
        return mean, std

    @staticmethod
    def _read_object(path: Path) -> dict[str, Any]:
        value = read_json(path)
        if not isinstance(value, dict):
            raise InputError(f"{path} holds a {type(value).__name__}, not an object; restore it, or {START_OVER}")
        return value

    def write_status(self, status: str, step: int, steps: int, **more: Any) -> None:
        """Writes ``running``, ``stopped``, ``finished`` or ``failed``, and what goes with it."""
        write_json(self.status_file, {"status": status, "step": step, "steps": steps, **more})

    def read_log(self) -> list[dict[str, Any]]:
        """The log's rows up to the first that is not one: a crash may cut the last line short."""
        rows: list[dict[str, Any]] = []
        if not self.log_file.exists():
            return rows
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                break
            rows.append(row)
        return rows

    def rewind_log(self, step: int) -> None:
        """Drops the rows after a step, which a resumed run writes again."""
        self.close_log()  # the file that is written is another one
        rows = [row for row in self.read_log() if row["step"] <= step]
        write_text(self.log_file, "".join(json.dumps(row) + "\n" for row in rows))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one row."""
        if self._open_log is None:  # it stays open: to open a file takes a tenth as long as a classifier's step
            self._open_log = self.log_file.open("ab", buffering=0)
        self._open_log.write((json.dumps({"step": step, **values}) + "\n").encode())

    def close_log(self) -> None:
        """Lets the log's file go; the next row opens it again."""
        if self._open_log is not None:
            self._open_log.close()
            self._open_log = None


def _difference(old: Recipe, new: Recipe) -> str:
    """All that is different about two recipes, in words: their names, and what was changed of these."""
    changed = [{"seed", "version", *(word.partition("=")[0] for word in changes(recipe))} for recipe in (old, new)]
    values = [_flat(recipe) for recipe in (old, new)]
    keys = [key for key in {**values[0], **values[1]} if key in changed[0] | changed[1]]
    differ = [key for key in keys if values[0].get(key) != values[1].get(key)]
    words = [" ".join(f"{key}={own[key]}" for key in differ if key in own) for own in values]
    if old.name == new.name:
        return f"{old.name} with {words[0]}, not {words[1]}"
    return ", not ".join(" ".join(filter(None, pair)) for pair in zip((old.name, new.name), words, strict=True))


def _flat(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields as overrides name them."""
    fields = {key: value for key, value in recipe.to_dict().items() if key not in ("name", "options")}
    return fields | {f"{part}.{key}": v for part, options in recipe.options.items() for key, v in options.items()}
