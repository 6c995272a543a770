"""Training: one loop for every method, on one process or many."""

from __future__ import annotations

import math
import platform
import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import reduce as reduce_over_processes
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InputError, TrainingError
from ..files import write_json
from ..recipes import Recipe
from .build import Data, prepare_data, to_device
from .evaluate import Metrics, evaluate
from .options import Options, Trained
from .plots import plot_curves
from .state import load_optimizer_state, load_state, optimizer_state, save_state, saved_step
from .stop import StopSignal
from .track import RunFolder
from .trainer import Trainer

__all__ = ["fit"]

LOG_ROWS = 200  # the log has about this many rows of training terms, whatever the number of steps
AGREE_EVERY = 10  # steps after which several processes compare whether one of them was told to stop


def fit(recipe: Recipe, folder: RunFolder, options: Options | None = None, data: Data | None = None) -> Trained:
    """Trains a recipe in a run folder, or goes on with it.

    Args:
        recipe: What to train.
        folder: Where to; :meth:`RunFolder.check` has passed, or the options say ``fresh``.
        options: How.
        data: What :func:`prepare_data` gave, if it was called before.

    Returns:
        How it ended. The folder's state holds weights, averaged weights and everything else of the last step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes, or the data are not
            those that the run was begun with; nothing was written.
        TrainingError: The loss is not finite, or the saved state cannot be read.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.cpu_threads or before)
    try:
        options = options or Options()
        return _fit(recipe, folder, options, data or prepare_data(recipe, options.data))
    finally:
        torch.set_num_threads(before)


def _fit(recipe: Recipe, folder: RunFolder, options: Options, data: Data) -> Trained:
    dataset, split = data.dataset, data.split
    accelerator = options.accelerator(folder, recipe.accumulate)
    device, world = accelerator.device, accelerator.num_processes
    trainer = Trainer(recipe, data, accelerator, options.compile)
    network, averaged = trainer.network, trainer.ema.module
    optimizer = trainer.optimizer.optimizer
    evaluation = to_device(data.evaluation, device)
    chosen = split.to_dict(dataset.train.names, dataset.test.names)
    dtype = "float32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision

    if options.fresh:
        if accelerator.is_main_process and (old := folder.set_aside()) is not None:
            print(f"the previous run was moved to {old}", file=sys.stderr, flush=True)
        accelerator.wait_for_everyone()
    start, seconds_before = _resume(trainer, folder, dtype, chosen)
    if accelerator.is_main_process:
        folder.open(recipe)
        write_json(folder.split_file, chosen)
        folder.rewind_log(start)
        folder.write_status("running", start, recipe.steps)
    accelerator.wait_for_everyone()
    if options.tracker != "none":
        named = {"name": f"{recipe.name}-seed{recipe.seed}"}
        kwargs = {options.tracker: named} if options.tracker in ("wandb", "trackio") else {}
        accelerator.init_trackers("muscle_zoo", config=_flat(recipe.to_dict()), init_kwargs=kwargs)

    began = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - began

    def log(step: int, row: dict[str, float]) -> None:
        if accelerator.is_main_process:
            folder.log(step, {**row, "seconds": round(seconds(), 3)})
        if options.tracker != "none":
            accelerator.log(row, step=step)

    def save(step: int, terms: dict[str, Tensor]) -> None:
        tensors = [terms["loss"], *network.state_dict().values(), *averaged.state_dict().values()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise TrainingError(_not_finite(step, {name: value.item() for name, value in terms.items()}, folder))
        if accelerator.is_main_process:
            kept, numbers = optimizer_state(optimizer)
            parts = {
                "model": network.state_dict(),
                "ema": averaged.state_dict(),
                "method": trainer.method.state_dict(),
                "optimizer": kept,
            }
            values = {"seconds": round(seconds(), 3), "dtype": dtype, "optimizer": numbers}
            if accelerator.scaler is not None:  # of fp16
                values["scaler"] = accelerator.scaler.state_dict()
            save_state(folder.state_dir, step, parts, values)
        accelerator.wait_for_everyone()

    def measure(weights: nn.Module) -> Metrics:
        total = partial(reduce_over_processes, reduction="sum") if world > 1 else None
        return evaluate(
            weights, evaluation, dataset.info, rank=accelerator.process_index, world_size=world, reduce=total
        )

    def ended(finished: bool, step: int, **results: Any) -> Trained:
        for tracker in accelerator.trackers:  # end_training() would also part the processes
            tracker.finish()
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}"
        return Trained(finished, step, seconds(), torch.get_num_threads(), world, device_name, dtype, **results)

    log_every = max(1, recipe.steps // LOG_ROWS)
    show = options.progress and accelerator.is_main_process
    trainer.model.train()
    with StopSignal(options.time_limit) as stop, _progress(recipe, start, show) as bar:
        for step, batch in enumerate(trainer.batches.steps(start, recipe.steps), start):
            done = step + 1
            logged = done % log_every == 0 or done == recipe.steps
            terms, hits = trainer.step(step, batch, count_guesses=logged)
            bar.update()
            if logged:
                row = trainer.row(terms, hits)
                if not math.isfinite(row["loss"]):
                    raise TrainingError(_not_finite(done, row, folder))
                log(done, {"lr": optimizer.param_groups[0]["lr"], **row})
            if done % recipe.eval_every == 0 or done == recipe.steps:
                metrics = {"raw": measure(network), "ema": measure(averaged)}
                log(done, {f"top1_{name}": m.top1 for name, m in metrics.items()} | {"nll_ema": metrics["ema"].nll})
                accuracy = f"accuracy {100 * metrics['ema'].top1:.1f} %"
                bar.set_postfix_str(accuracy)
                if show and bar.disable and done * 10 // recipe.steps > (done - recipe.eval_every) * 10 // recipe.steps:
                    print(f"{recipe.name}: step {done} of {recipe.steps}, {accuracy}", file=sys.stderr, flush=True)
            stopping = done < recipe.steps and _agreed(stop.requested, done, accelerator)
            if done == recipe.steps or stopping or done % options.save_every == 0:
                save(done, terms)
            if stopping:
                if accelerator.is_main_process:
                    folder.write_status("stopped", done, recipe.steps, why=stop.why)
                return ended(False, done)

    if accelerator.is_main_process:
        plot_curves(folder.read_log(), recipe, dataset.info.num_classes, folder.curves_file)
    accelerator.wait_for_everyone()
    rows = [row["top1_ema"] for row in folder.read_log() if "top1_ema" in row]
    last = metrics if start < recipe.steps else {"raw": measure(network), "ema": measure(averaged)}
    return ended(True, recipe.steps, **last, median20=statistics.median(rows[-20:]))


def _resume(trainer: Trainer, folder: RunFolder, dtype: str, chosen: dict[str, Any]) -> tuple[int, float]:
    """Loads the folder's state, if there is one.

    Returns:
        Steps done, and the seconds that they took.
    """
    loaded = load_state(folder.state_dir)
    if loaded is None:
        if done := folder.read_status().get("step", 0):
            raise InputError(f"{folder.state_dir} is gone, and {done} steps were done; restore it or give --fresh")
        return 0, 0.0
    parts, values = loaded
    trainer.network.load_state_dict(parts["model"])
    trainer.ema.module.load_state_dict(parts["ema"])
    trainer.method.load_state_dict(parts["method"])
    load_optimizer_state(trainer.optimizer.optimizer, parts["optimizer"], values.get("optimizer", {}))
    if "scaler" in values:
        trainer.accelerator.scaler.load_state_dict(values["scaler"])
    if values["dtype"] != dtype:
        raise InputError(
            f"--mixed-precision: the run was begun in {values['dtype']}, not {dtype}; give the same, or --fresh"
        )
    if (before := folder.read_split()) not in (None, chosen):
        raise InputError(
            f"{folder.split_file}: the data are not those the run was begun with ({_changes(before, chosen)}); "
            "restore them, or give --fresh"
        )
    return values["step"], values["seconds"]


def _progress(recipe: Recipe, start: int, show: bool) -> tqdm[Any]:
    # None: a bar on a terminal only
    disable = None if show else True
    return tqdm(total=recipe.steps, initial=start, desc=recipe.name, unit="step", disable=disable, dynamic_ncols=True)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What is different about two split.json, in words."""
    said = []
    for key in now:
        old, new = before.get(key), now[key]
        if old != new and isinstance(new, dict) and isinstance(old, dict) and old.get("count") != new["count"]:
            said.append(f"{key}: {new['count']} images, {old.get('count')} then")
        elif old != new:
            said.append({"names_sha256": "other file names", "sha256": "other labelled images"}.get(key, key))
    return ", ".join(said)


def _agreed(requested: bool, step: int, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return requested
    if step % AGREE_EVERY:
        return False
    told = torch.tensor(float(requested), device=accelerator.device)
    return bool(reduce_over_processes(told, reduction="sum") > 0)


def _not_finite(step: int, row: dict[str, float], folder: RunFolder) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in row.items())
    good = saved_step(folder.state_dir)
    kept = f"the state of step {good} is kept" if good else "nothing was saved before"
    return f"the loss is not finite at step {step} ({shown}), {kept}; lower lr, and start over with --fresh"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
