"""A training run: what the loop of fit.py trains, logs, measures and saves."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils import reduce as reduce_over_processes
from torch import Tensor

from ..errors import InputError, TrainingError
from ..files import write_json
from ..recipes import Recipe
from .build import Data, to_device
from .collectives import Parts, on_main_process, require_the_same, share_tensors, shared_errors
from .evaluate import Metrics, count_images, summarize
from .options import RunOptions, TrainResult
from .run_folder import RunFolder
from .state import load_optimizer_state, load_state, optimizer_state, save_state, saved_step
from .trainer import Trainer

__all__ = ["Run"]


class Run:
    """A run: its trainer, its folder, and what is logged, measured and saved of it.

    The folder is the first process's alone: the others may be on machines that do not see its disk. They get from it
    what was saved, and nothing here looks at their own disks but for images.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, options: RunOptions, data: Data) -> None:
        self.recipe, self.folder, self.options = recipe, folder, options
        self.accelerator = options.accelerator(folder, recipe.accumulate)
        self.main = self.accelerator.is_main_process
        self.dtype = "float32" if self.accelerator.mixed_precision == "no" else self.accelerator.mixed_precision
        self.split = data.split.to_dict(data.dataset.train.names, data.dataset.test.names)
        facts = {"recipe": recipe.to_dict(), "split of the data": self.split, "--mixed-precision": self.dtype}
        require_the_same(facts | {"--save-every": options.save_every, "--fresh": options.fresh})
        self._state = self._shared_state()
        self.seconds_before = 0.0 if self._state is None else self._state[1]["seconds"]
        self.saved = 0 if self._state is None else self._state[1]["step"]
        built = recipe if self._state is None else replace(recipe, init="")  # the state has the weights
        self.trainer = Trainer(built, data, self.accelerator, options.compile)
        self.network, self.ema = self.trainer.network, self.trainer.ema.module
        self.optimizer = self.trainer.optimizer.optimizer
        self.info = data.dataset.info
        self.evaluation = to_device(data.evaluation, self.accelerator.device)
        self.began = time.monotonic()

    def begin(self) -> int:
        """Puts back the state, if there is one, and opens the folder and the tracker.

        Returns:
            Steps done.
        """
        if self._state is not None:
            self._resume(*self._state)
            self._state = None
        on_main_process(self._open_folder)
        if (tracker := self.options.tracker) != "none":
            named = {"name": f"{self.recipe.name}-seed{self.recipe.seed}"}
            kwargs = {tracker: named} if tracker in ("wandb", "trackio") else {}
            self.accelerator.init_trackers("muscle_zoo", config=_flat(self.recipe.to_dict()), init_kwargs=kwargs)
        self.began = time.monotonic()
        return self.saved

    def _open_folder(self) -> None:
        if self.options.fresh and (old := self.folder.set_aside()) is not None:
            print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
        self.folder.open(self.recipe)
        write_json(self.folder.split_file, self.split)
        self.folder.rewind_log(self.saved)
        self.folder.write_status("running", self.saved, self.recipe.steps)

    def _shared_state(self) -> tuple[Parts, dict[str, Any]] | None:
        """What the first process's folder has of the run; None for a new one."""
        if self.options.fresh:
            return None
        steps = gather_object([saved_step(self.folder.state_dir)])
        if ahead := [rank for rank, step in enumerate(steps) if step > steps[0]]:  # a launcher may renumber machines
            raise InputError(
                f"--out {self.folder.path}: process {ahead[0]} has the state of step {steps[ahead[0]]} on its disk, "
                f"process 0 that of step {steps[0]}; let that machine be the first (--node_rank 0), or give --fresh"
            )
        with shared_errors():
            saved = self._load_state() if self.main else None
        parts, own_values = saved if saved is not None else ({}, None)
        values = on_main_process(lambda: own_values)
        return None if values is None else (share_tensors(parts, self.accelerator.device), values)

    def _load_state(self) -> tuple[Parts, dict[str, Any]] | None:
        saved = load_state(self.folder.state_dir)
        if saved is not None:
            self._require_fit(saved[1])
        elif done := self.folder.read_status().get("step", 0):
            raise InputError(f"{self.folder.state_dir} is gone, and {done} steps were done; restore it or give --fresh")
        return saved

    def _require_fit(self, values: dict[str, Any]) -> None:
        """Refuses to go on in another precision or with other data than the run was begun with."""
        if values["dtype"] != self.dtype:
            raise InputError(
                f"--mixed-precision: the run was begun in {values['dtype']}, not {self.dtype}; give the same, or "
                "--fresh"
            )
        before = self.folder.read_split()
        if before is not None and before != self.split:
            raise InputError(
                f"{self.folder.split_file}: the data are not those the run was begun with "
                f"({_changes(before, self.split)}); restore them, or give --fresh"
            )

    def _resume(self, parts: Parts, values: dict[str, Any]) -> None:
        """Goes on where the state was saved: weights, EMA, the method's buffers, the optimizer, fp16's scaler."""
        self.network.load_state_dict(parts["model"])
        self.ema.load_state_dict(parts["ema"])
        self.trainer.method.load_state_dict(parts["method"])
        load_optimizer_state(self.optimizer, parts["optimizer"], values.get("optimizer", {}))
        if "scaler" in values:
            self.accelerator.scaler.load_state_dict(values["scaler"])

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
        values = {"seconds": round(self.seconds, 3), "dtype": self.dtype, "optimizer": numbers}
        if self.accelerator.scaler is not None:  # of fp16
            values["scaler"] = self.accelerator.scaler.state_dict()
        save_state(self.folder.state_dir, step, parts, values)

    def not_finite(self, step: int, row: dict[str, float]) -> TrainingError:
        """The error of a loss or weights that are not finite."""
        shown = ", ".join(f"{name}={value}" for name, value in row.items())
        state = f"the state of step {self.saved} is kept" if self.saved else "nothing was saved before"
        return TrainingError(
            f"the loss is not finite at step {step} ({shown}), {state}; lower lr, and start over with --fresh"
        )

    def measure(self) -> dict[str, Metrics]:
        """Evaluates the raw and the averaged weights, each process on its share of the images."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        networks = {"raw": self.network, "ema": self.ema}
        with shared_errors():
            counts = count_images(networks, self.evaluation, self.info, rank=rank, world_size=world)
        if world > 1:
            device = self.accelerator.device
            counts = {name: reduce_over_processes(own.to(device), "sum").cpu() for name, own in counts.items()}
        return {name: summarize(own) for name, own in counts.items()}

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
    changes = []
    for key in now:
        old, new = before.get(key), now[key]
        if old != new and isinstance(new, dict) and isinstance(old, dict) and old.get("count") != new["count"]:
            changes.append(f"{key}: {new['count']} images, {old.get('count')} then")
        elif old != new:
            changes.append({"names_sha256": "other file names", "sha256": "other labeled images"}.get(key, key))
    return ", ".join(changes)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
