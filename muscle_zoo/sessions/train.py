"""A recipe becomes a finished run: trained, exported, and described by one ledger row."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, read_config
from ..checkpoints.factory import create_model
from ..data import DataSet
from ..data.manifest import changes_since, manifest_of
from ..data.picture_folder import find_pictures
from ..engine.build import own_folder
from ..engine.collectives import on_main_process, shared_errors
from ..engine.evaluate import Metrics
from ..engine.fit import data_of_run, fit
from ..engine.options import RunOptions, process_state
from ..engine.processes import is_launched, is_main_process
from ..engine.run_folder import RunFolder
from ..errors import START_OVER, InputError, TrainingError, WeightsError
from ..files import read_json, write_json
from ..methods import trains_classifier
from ..publishing.backbone import export_backbone
from ..publishing.export import export_run
from ..recipes import Recipe
from ..results.ledger import Row, row_from


@dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        recipe: What was trained.
        path: The run folder.
        finished: False where it was stopped before its last step; the same call goes on with it.
        row: Its ledger row; None where it was stopped, or has no classifier whose accuracy could stand in one.
    """

    recipe: Recipe
    path: Path
    finished: bool
    row: Row | None = None

    @property
    def checkpoint(self) -> str:
        """The name by which :func:`muscle_zoo.create_model` loads its weights.

        Raises:
            InputError: The run was stopped before it had any to publish.
        """
        if not self.finished:
            raise InputError(f"{self.path} is not finished, so it has no weights yet; train again to go on with it")
        if why := self.without_network:
            raise InputError(f"{self.path} has no network to load: {why}; its figures are in `row` and `metrics`")
        return f"{weights.LOCAL_DIR}{(self.path / 'export').as_posix()}"

    @property
    def without_network(self) -> str:
        """Why a finished run has no weights to load; empty where it has."""
        return str(RunFolder(self.path).read_status().get("without_network", ""))

    @property
    def metrics(self) -> Metrics:
        """Accuracy, likelihood and calibration of the exported weights on the images of the recipe's fold.

        Raises:
            InputError: The run was stopped, or its method trains no classifier: see :attr:`neighbors`.
        """
        if self.without_network:
            return Metrics(**RunFolder(self.path).read_status()["metrics"])
        block = self._block
        if "metrics" not in block:
            raise InputError(
                f"{self.path}: {self.recipe.method} trains no classifier; look at neighbors, or begin with it"
            )
        return Metrics(**block["metrics"])

    @property
    def neighbors(self) -> dict[str, float] | None:
        """How often the features' nearest labeled neighbors have the right class; None where there is a classifier.

        ``top1``, 0 to 1, of ``n`` images of the recipe's fold, among ``references`` labeled images.
        """
        if self.without_network:
            return None
        measured: dict[str, float] | None = self._block.get("neighbors")
        return measured

    @property
    def _block(self) -> dict[str, Any]:
        block: dict[str, Any] = read_config(Path(self.checkpoint.removeprefix(weights.LOCAL_DIR)))[BLOCK]
        return block

    def model(self, **kwargs: Any) -> nn.Module:
        """The trained network, as :func:`muscle_zoo.create_model` gives it.

        Args:
            **kwargs: As there: ``num_classes=3`` for a new classifier, ``features_only=True``, ...
        """
        return create_model(self.checkpoint, pretrained=True, **kwargs)


def train_run(
    recipe: Recipe,
    out: Path,
    options: RunOptions | None = None,
    began: float | None = None,
    loaded: DataSet | None = None,
) -> RunResult:
    """Trains and exports a recipe in a run folder, or goes on with it; nothing is done to one that is finished.

    Args:
        recipe: What to train.
        out: The run folder.
        options: How, and on which data.
        began: When the time limit began to count, as time.monotonic() tells it; now, by default.
        loaded: The recipe's data set, if it is loaded already.

    Returns:
        What became of it.

    Raises:
        InputError: The recipe, the options, the data or the folder do not fit; nothing was written.
        TrainingError: Training could not go on; status.json says why.
    """
    began = time.monotonic() if began is None else began
    options = options or RunOptions()
    folder = RunFolder(out)
    with own_accelerate_state(), ExitStack() as stack:
        process_state(options.cpu)
        # The folder is the first process's: the others may be on machines that do not see its disk.
        done, row = on_main_process(lambda: _look(recipe, folder, options))
        if done:
            return RunResult(recipe, out, True, row)
        with shared_errors():
            if is_main_process():
                stack.enter_context(folder.locked())
        finished = _train(recipe, folder, options, began, loaded)
        row = on_main_process(lambda: _read_row(folder) if finished else None)
    return RunResult(recipe, out, finished, row)


def _look(recipe: Recipe, folder: RunFolder, options: RunOptions) -> tuple[bool, Row | None]:
    """Makes sure that the folder may be used for the recipe; whether it is finished, and its row if it has one."""
    if options.fresh:
        folder.check_kind()
        return False, None
    folder.check(recipe)
    data = own_folder(recipe, options.data)
    if data:
        _require_same_pictures(folder, data)
    row = finished_row(folder, data)
    done = row is not None if trains_classifier(recipe.method) else is_finished(folder, data)
    dtype = folder.read_status().get("dtype") if row is None else row.dtype
    asked = {"no": "float32"}.get(options.mixed_precision or "", options.mixed_precision)
    if done and asked not in (None, dtype):
        raise InputError(f"run folder {folder.path} is a finished run in {dtype}, not {asked}; give another folder")
    return done, row


def finished_row(folder: RunFolder, data: str) -> Row | None:
    """The ledger row of a run that is finished and whole; None where something is left to do, or it has no classifier.

    Args:
        folder: The run's.
        data: The user's folder or CSV that is asked for now, see :func:`muscle_zoo.engine.build.own_folder`.

    Raises:
        InputError: It is finished, but on other data: its result must not be taken for one on these.
    """
    return _read_row(folder) if is_finished(folder, data) else None


def is_finished(folder: RunFolder, data: str) -> bool:
    """Whether a run is finished and whole; arguments and errors as for :func:`finished_row`."""
    status = folder.read_status()
    whole = "without_network" in status or _is_whole(folder.export_dir)
    if status.get("status") != "finished" or not whole:
        return False
    if status.get("data", "") != data:
        raise InputError(
            f"run folder {folder.path} is a finished run on {status.get('data') or 'other data'}, not on "
            f"{data or 'these'}; give another folder, or {START_OVER}"
        )
    return True


PICTURES = "pictures.json"  # in a run folder on the user's own pictures: which they were; never exported


def _require_same_pictures(folder: RunFolder, data: str) -> None:
    """Makes sure that the user's pictures are those that a run was begun with.

    Raises:
        InputError: Some were added, are gone, or have another label: neither the result of before nor what is saved of
            it holds for them.
    """
    file, status = folder.path / PICTURES, folder.read_status()
    if not file.exists() or not Path(data).exists() or status.get("data", data) != data:
        return
    changes = changes_since(read_json(file), manifest_of(find_pictures(Path(data))))
    if changes:
        is_finished = status.get("status") == "finished"
        begun, beside = ("finished", f"init={folder.path} --out NEW") if is_finished else ("begun", "--out NEW")
        raise InputError(
            f"run folder {folder.path}: the pictures in {data} are not those it was {begun} with: {changes}; "
            f"{START_OVER}, train another beside it ({beside}), or restore them"
        )


def _remember_pictures(folder: RunFolder, data: str) -> None:
    """Writes down which pictures a run is begun with; of one that goes on it is known that they are the same."""
    if data and is_main_process() and not (folder.path / PICTURES).exists():
        write_json(folder.path / PICTURES, manifest_of(find_pictures(Path(data))))


def _read_row(folder: RunFolder) -> Row | None:
    """The row in status.json; None where it is one of an older edition, which lacks a column."""
    try:
        return row_from(folder.read_status().get("row", {}))
    except TypeError:
        return None


def _train(recipe: Recipe, folder: RunFolder, options: RunOptions, began: float, loaded: DataSet | None) -> bool:
    written = _time_written(folder)
    try:
        data = data_of_run(recipe, folder, options, loaded)
        if options.time_limit is not None:  # it counts from the start of the command
            left = options.time_limit - (time.monotonic() - began)
            options = replace(options, time_limit=max(left, 1e-6))
        trained = fit(recipe, folder, options, data)
        _remember_pictures(folder, data.source)
        with shared_errors():  # where the others wait: one that ends early would have its launcher end this one
            if trained.finished and is_main_process():
                if options.progress:
                    print("exporting the network, and measuring what was exported", file=sys.stderr, flush=True)
                export = export_run if trains_classifier(recipe.method) else export_backbone
                export(recipe, folder, trained, data, process_state(options.cpu).device)
    except BaseException as error:
        # Only what this attempt began: an older run's status, which wrong input never touches, is left as it is.
        status = folder.read_status() if is_main_process() and _time_written(folder) != written else {}
        if status.get("status") == "running":  # one that is stopped or finished stays so, whatever comes after
            with suppress(OSError):  # the disk may be full
                folder.write_status("failed", status["step"], recipe.steps, why=f"{type(error).__name__}: {error}")
        if remedy := _memory_error(error):
            raise TrainingError(remedy) from error
        raise
    return trained.finished


def _memory_error(error: BaseException) -> str:
    """What to do about an error, if it is that memory ran out; torch's CPU allocator raises a plain RuntimeError."""
    first_line = str(error).partition("\n")[0]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in first_line
    ):
        return f"out of memory ({first_line}); lower batch_size or mu, or give accumulate=2"
    return ""


def _time_written(folder: RunFolder) -> int:
    return folder.status_file.stat().st_mtime_ns if folder.status_file.exists() else 0


def _is_whole(export: Path) -> bool:
    try:
        weights.from_folder(export)
    except WeightsError:
        return False  # it is made again from the state
    return True


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Leaves Accelerate as it was found, so that the next run in a notebook may ask for another precision or device.

    Accelerate keeps one precision and one device per process, in class attributes and in the environment. An
    Accelerator that the caller made before is left alone, and so are the processes that a launcher started.
    """
    theirs = bool(PartialState._shared_state)
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    try:
        yield
    finally:
        if not theirs and not is_launched():
            AcceleratorState._reset_state(reset_partial_state=True)
            if precision is None:
                os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
