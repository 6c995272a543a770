"""A training run: what the loop of fit.py trains, logs, measures and saves."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import reduce as reduce_over_processes
from torch import Tensor, nn

from ..errors import START_OVER, InputError, TrainingError
from ..files import write_json
from ..methods import trains_classifier
from ..recipes import Recipe
from .build import Data, to_device
from .collectives import on_main_process, require_the_same, shared_errors
from .evaluate import Metrics, count_images, summarize
from .frozen import embed_data
from .nearest_neighbors import NearestNeighbors, references_of
from .options import RunOptions, TrainResult
from .resume import find_state, resume
from .run_folder import RunFolder
from .state import optimizer_state, save_state
from .trainer import Trainer

__all__ = ["Run"]


class Run:
    """A run: its trainer, its folder, and what is logged, measured and saved of it.

    The folder is the first process's alone: the others may be on machines that do not see its disk. They get from it
    what was saved, and nothing here looks at their own disks but for images.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        options: RunOptions,
        data: Data,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recipe, self.folder, self.options = recipe, folder, options
        self.accelerator = options.accelerator(folder, recipe.accumulate)
        self.main = self.accelerator.is_main_process
        self.dtype = "float32" if self.accelerator.mixed_precision == "no" else self.accelerator.mixed_precision
        self.split = data.split.to_dict(data.dataset.train.names, data.dataset.test.names)
        facts = {"recipe": recipe.to_dict(), "split of the data": self.split, "--mixed-precision": self.dtype}
        require_the_same(facts | {"--save-every": options.save_every, "--fresh": options.fresh})
        self._state = None if options.fresh else find_state(folder, self.dtype, self.split, self.accelerator)
        self.seconds_before = 0.0 if self._state is None else self._state[1]["seconds"]
        self.saved = 0 if self._state is None else self._state[1]["step"]
        built = recipe if self._state is None else replace(recipe, init="")  # the state has the weights
        pictures = data.dataset.info  # embeddings of them are normalized already
        self.normalization = pictures.mean, pictures.std
        if recipe.tune == "head":
            data = embed_data(recipe, data, self.accelerator.device, options.progress, stop)
        self.trainer = Trainer(built, data, self.accelerator, options.compile)
        self.network, self.ema = self.trainer.network, self.trainer.ema.module
        self.optimizer = self.trainer.optimizer.optimizer
        if recipe.teacher:
            require_the_same({"teacher": self._teacher_sha256})
        self.info = data.dataset.info
        self.evaluation = to_device(data.evaluation, self.accelerator.device)
        # Without a classifier its features are measured, by nearest neighbors; the log does not call that top-1.
        self.references = None if trains_classifier(recipe.method) else references_of(data)
        self.measured = "top1" if self.references is None else "knn"
        self.began = time.monotonic()

    def begin(self) -> int:
        """Puts back the state, if there is one, and opens the folder and the tracker.

        Returns:
            Steps done.
        """
        if self._state is not None:
            resume(self.trainer, *self._state)
            self._require_same_teacher(self._state[1].get("teacher_sha256"))
            self._state = None
        on_main_process(self._open_folder)
        if (tracker := self.options.tracker) != "none":
            named = {"name": f"{self.recipe.name}-seed{self.recipe.seed}"}
            kwargs = {tracker: named} if tracker in ("wandb", "trackio") else {}
            self.accelerator.init_trackers("muscle_zoo", config=_flat(self.recipe.to_dict()), init_kwargs=kwargs)
        self.began = time.monotonic()
        return self.saved

    def _require_same_teacher(self, before: str | None) -> None:
        """Refuses to go on with other predictions to learn from than the run was begun with."""
        if before != self._teacher_sha256:
            raise InputError(
                f"teacher={self.recipe.teacher}: its weights are not those that the run was begun with (sha256 "
                f"{str(before)[:12]}, now {str(self._teacher_sha256)[:12]}); restore them, or {START_OVER}"
            )

    @property
    def _teacher_sha256(self) -> str | None:
        teacher = self.trainer.teacher
        return None if teacher is None else teacher.sha256

    def _open_folder(self) -> None:
        if self.options.fresh and (old := self.folder.set_aside()) is not None:
            print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
        self.folder.open(self.recipe, self.normalization)
        write_json(self.folder.split_file, self.split)
        self.folder.rewind_log(self.saved)
        self.folder.write_status("running", self.saved, self.recipe.steps)

    @property
    def seconds(self) -> float:
        """Spent training, in all sessions."""
        return self.seconds_before + time.monotonic() - self.began

    def log(self, step: int, row: dict[str, float]) -> None:
        """Adds a row to the log, and to the tracker's."""
        if self.main:
            self.folder.log(step, {**row, "seconds": round(self.seconds, 3)})
        if self.options.tracker != "none":
            self.accelerator.log(row, step=step)

    def save(self, step: int, terms: dict[str, Tensor]) -> None:
        """Saves the state, if all of it is finite."""
        tensors = [terms["loss"], *self.network.state_dict().values(), *self.ema.state_dict().values()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise self.not_finite(step, {name: value.item() for name, value in terms.items()})
        on_main_process(lambda: self._write_state(step))
        self.saved = step

    def _write_state(self, step: int) -> None:
        tensors, numbers = optimizer_state(self.optimizer)
        parts = {
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "method": self.trainer.method.state_dict(),
            "optimizer": tensors,
        }
        values: dict[str, Any] = {"seconds": round(self.seconds, 3), "dtype": self.dtype, "optimizer": numbers}
        if self._teacher_sha256 is not None:
            values["teacher_sha256"] = self._teacher_sha256
        if self.accelerator.scaler is not None:  # of fp16
            values["scaler"] = self.accelerator.scaler.state_dict()
        save_state(self.folder.state_dir, step, parts, values)

    def not_finite(self, step: int, row: dict[str, float]) -> TrainingError:
        """The error of a loss or weights that are not finite."""
        shown = ", ".join(f"{name}={value}" for name, value in row.items())
        state = f"the state of step {self.saved} is kept" if self.saved else "nothing was saved before"
        return TrainingError(f"the loss is not finite at step {step} ({shown}), {state}; lower lr, and {START_OVER}")

    def measure(self) -> dict[str, Metrics]:
        """Evaluates the raw and the averaged weights, each process on its share of the images."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        networks: dict[str, nn.Module] = {"raw": self.network, "ema": self.ema}
        with shared_errors():
            if self.references is not None:
                networks = {n: NearestNeighbors(own, self.references, self.info) for n, own in networks.items()}
            counts = count_images(networks, self.evaluation, self.info, rank=rank, world_size=world)
        if world > 1:
            device = self.accelerator.device
            counts = {name: reduce_over_processes(own.to(device), "sum").cpu() for name, own in counts.items()}
        return {name: summarize(own) for name, own in counts.items()}

    def measured_row(self, metrics: Mapping[str, Metrics]) -> dict[str, float]:
        """What the log keeps of an evaluation."""
        row = {f"{self.measured}_{name}": m.top1 for name, m in metrics.items()}
        return row | ({"nll_ema": metrics["ema"].nll} if self.references is None else {})

    def end(self, step: int, **results: Any) -> TrainResult:
        """Closes the tracker, and says how the run ended: finished where there are results."""
        for tracker in self.accelerator.trackers:  # end_training() would also part the processes
            tracker.finish()
        device, world = self.accelerator.device, self.accelerator.num_processes
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}"
        return TrainResult(
            bool(results), step, self.seconds, torch.get_num_threads(), world, name, self.dtype, **results
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
