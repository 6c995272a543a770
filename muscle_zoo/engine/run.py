"""A training run: what the loop of fit.py trains, logs, measures and saves."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import reduce as reduce_over_processes
from torch import Tensor

from ..errors import InputError, TrainingError
from ..files import write_json
from ..recipes import Recipe
from .build import Data, to_device
from .evaluate import Metrics, evaluate
from .options import RunOptions, TrainResult
from .run_folder import RunFolder
from .state import load_optimizer_state, load_state, optimizer_state, save_state, saved_step
from .trainer import Trainer

__all__ = ["Run"]


class Run:
    """A run: its trainer, its folder, and what is logged, measured and saved of it."""

    def __init__(self, recipe: Recipe, folder: RunFolder, options: RunOptions, data: Data) -> None:
        self.recipe, self.folder, self.options = recipe, folder, options
        self.accelerator = options.accelerator(folder, recipe.accumulate)
        goes_on = not options.fresh and saved_step(folder.state_dir) > 0  # then the state has the weights
        built = replace(recipe, init="") if goes_on else recipe
        self.trainer = Trainer(built, data, self.accelerator, options.compile)
        self.network, self.ema = self.trainer.network, self.trainer.ema.module
        self.optimizer = self.trainer.optimizer.optimizer
        self.main = self.accelerator.is_main_process
        self.dtype = "float32" if self.accelerator.mixed_precision == "no" else self.accelerator.mixed_precision
        self.info = data.dataset.info
        self.evaluation = to_device(data.evaluation, self.accelerator.device)
        self.split = data.split.to_dict(data.dataset.train.names, data.dataset.test.names)
        self.seconds_before, self.began = 0.0, time.monotonic()

    def begin(self) -> int:
        """Loads the folder's state, if there is one, and opens the folder and the tracker.

        Returns:
            Steps done.
        """
        if self.options.fresh:
            if self.main and (old := self.folder.set_aside()) is not None:
                print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
            self.accelerator.wait_for_everyone()
        start, self.seconds_before = self._resume()
        if self.main:
            self.folder.open(self.recipe)
            write_json(self.folder.split_file, self.split)
            self.folder.rewind_log(start)
            self.folder.write_status("running", start, self.recipe.steps)
        self.accelerator.wait_for_everyone()
        if (tracker := self.options.tracker) != "none":
            named = {"name": f"{self.recipe.name}-seed{self.recipe.seed}"}
            kwargs = {tracker: named} if tracker in ("wandb", "trackio") else {}
            self.accelerator.init_trackers("muscle_zoo", config=_flat(self.recipe.to_dict()), init_kwargs=kwargs)
        self.began = time.monotonic()
        return start

    def _resume(self) -> tuple[int, float]:
        """Loads the folder's state: steps done, and the seconds that they took."""
        loaded = load_state(self.folder.state_dir)
        if loaded is None:
            if done := self.folder.read_status().get("step", 0):
                raise InputError(
                    f"{self.folder.state_dir} is gone, and {done} steps were done; restore it or give --fresh"
                )
            return 0, 0.0
        parts, values = loaded
        self.network.load_state_dict(parts["model"])
        self.ema.load_state_dict(parts["ema"])
        self.trainer.method.load_state_dict(parts["method"])
        load_optimizer_state(self.optimizer, parts["optimizer"], values.get("optimizer", {}))
        if "scaler" in values:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        if values["dtype"] != self.dtype:
            raise InputError(
                f"--mixed-precision: the run was begun in {values['dtype']}, not {self.dtype}; give the same, or "
                "--fresh"
            )
        if (before := self.folder.read_split()) not in (None, self.split):
            raise InputError(
                f"{self.folder.split_file}: the data are not those the run was begun with "
                f"({_changes(before, self.split)}); restore them, or give --fresh"
            )
        return values["step"], values["seconds"]

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
        if self.main:
            kept, numbers = optimizer_state(self.optimizer)
            parts = {
                "model": self.network.state_dict(),
                "ema": self.ema.state_dict(),
                "method": self.trainer.method.state_dict(),
                "optimizer": kept,
            }
            values = {"seconds": round(self.seconds, 3), "dtype": self.dtype, "optimizer": numbers}
            if self.accelerator.scaler is not None:  # of fp16
                values["scaler"] = self.accelerator.scaler.state_dict()
            save_state(self.folder.state_dir, step, parts, values)
        self.accelerator.wait_for_everyone()

    def not_finite(self, step: int, row: dict[str, float]) -> TrainingError:
        """The error of a loss or weights that are not finite."""
        shown = ", ".join(f"{name}={value}" for name, value in row.items())
        good = saved_step(self.folder.state_dir)
        kept = f"the state of step {good} is kept" if good else "nothing was saved before"
        return TrainingError(
            f"the loss is not finite at step {step} ({shown}), {kept}; lower lr, and start over with --fresh"
        )

    def measure(self) -> dict[str, Metrics]:
        """Evaluates the raw and the averaged weights."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        total = partial(reduce_over_processes, reduction="sum") if world > 1 else None
        return {
            name: evaluate(weights, self.evaluation, self.info, rank=rank, world_size=world, reduce=total)
            for name, weights in (("raw", self.network), ("ema", self.ema))
        }

    def end(self, step: int, **results: Any) -> TrainResult:
        """Closes the tracker, and says how the run ended: finished where there are results."""
        for tracker in self.accelerator.trackers:  # end_training() would also part the processes
            tracker.finish()
        device, world = self.accelerator.device, self.accelerator.num_processes
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}"
        return TrainResult(
            bool(results), step, self.seconds, torch.get_num_threads(), world, name, self.dtype, **results
        )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What is different about two split.json, in words."""
    said = []
    for key in now:
        old, new = before.get(key), now[key]
        if old != new and isinstance(new, dict) and isinstance(old, dict) and old.get("count") != new["count"]:
            said.append(f"{key}: {new['count']} images, {old.get('count')} then")
        elif old != new:
            said.append({"names_sha256": "other file names", "sha256": "other labeled images"}.get(key, key))
    return ", ".join(said)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
