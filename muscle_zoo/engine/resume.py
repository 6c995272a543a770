"""Resuming: what the first process's folder has of a run, whether it fits, and how a run goes on from it.

Learning rate, batches, views and dropout are functions of the step alone, so a run that is resumed takes the very steps
it would have taken.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..errors import START_OVER, InputError
from .collectives import Parts, on_main_process, share_tensors, shared_errors
from .run_folder import RunFolder
from .state import load_optimizer_state, load_state, saved_step
from .trainer import Trainer

Saved = tuple[Parts, dict[str, Any]]  # tensors by part and name, and plain values


def find_state(folder: RunFolder, dtype: str, split: dict[str, Any], accelerator: Accelerator) -> Saved | None:
    """What the first process's folder has of the run, on every process; None for a new one.

    Args:
        folder: The run's.
        dtype: ``float32``, or the mixed precision that is asked for now.
        split: split.json as the data give it now.
        accelerator: The processes.

    Raises:
        InputError: The run was begun in another precision or on other data, or another process has a later state.
        TrainingError: Something was saved, and none of it can be read.
    """
    steps = gather_object([saved_step(folder.state_dir)])
    if ahead := [rank for rank, step in enumerate(steps) if step > steps[0]]:  # a launcher may renumber machines
        raise InputError(
            f"run folder {folder.path}: process {ahead[0]} has the state of step {steps[ahead[0]]} on its disk, "
            f"process 0 that of step {steps[0]}; let that machine be the first (--node_rank 0), or {START_OVER}"
        )
    with shared_errors():
        saved = _load(folder, dtype, split) if accelerator.is_main_process else None
    parts, own_values = saved if saved is not None else ({}, None)
    values = on_main_process(lambda: own_values)
    return None if values is None else (share_tensors(parts, accelerator.device), values)


def resume(trainer: Trainer, parts: Parts, values: dict[str, Any]) -> None:
    """Goes on where the state was saved: weights, EMA, the method's buffers, the optimizer, fp16's scaler."""
    trainer.network.load_state_dict(parts["model"])
    trainer.ema.module.load_state_dict(parts["ema"])
    trainer.method.load_state_dict(parts["method"])
    load_optimizer_state(trainer.optimizer.optimizer, parts["optimizer"], values.get("optimizer", {}))
    if "scaler" in values:
        trainer.accelerator.scaler.load_state_dict(values["scaler"])


def _load(folder: RunFolder, dtype: str, split: dict[str, Any]) -> Saved | None:
    saved = load_state(folder.state_dir)
    if saved is not None:
        _require_fit(folder, saved[1]["dtype"], dtype, split)
    elif done := folder.read_status().get("step", 0):
        raise InputError(f"{folder.state_dir} is gone, and {done} steps were done; restore it, or {START_OVER}")
    return saved


def _require_fit(folder: RunFolder, saved_dtype: str, dtype: str, split: dict[str, Any]) -> None:
    """Refuses to go on in another precision or with other data than the run was begun with."""
    if saved_dtype != dtype:
        raise InputError(
            f"mixed precision: the run was begun in {saved_dtype}, not {dtype}; give the same, or {START_OVER}"
        )
    before = folder.read_split()
    if before is not None and before != split:
        raise InputError(
            f"{folder.split_file}: the data are not those the run was begun with ({_changes(before, split)}); "
            f"restore them, or {START_OVER}"
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
