"""Training: one loop for every method, on one process or many."""

from __future__ import annotations

import math
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from accelerate.utils import reduce as reduce_over_processes
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from ..data import Batches, DataSet, LabelledImages, Split, load_dataset, make_split
from ..data.batches import step_seed
from ..errors import InputError, TrainingError, near
from ..methods import Batch, create_method, prepare
from ..recipes import Recipe
from .batchnorm import synchronise_batchnorm
from .evaluate import Metrics, evaluate
from .plots import plot_curves
from .schedule import learning_rate
from .state import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from .stop import StopSignal
from .track import RunFolder, write_json

__all__ = ["Options", "Trained", "fit", "prepare_data", "train_step"]

LOG_ROWS = 200  # the log has about this many rows of training terms, whatever the number of steps
AGREE_EVERY = 10  # steps after which several processes compare whether one of them was told to stop


@dataclass(frozen=True)
class Options:
    """What decides how a run is carried out, not what it computes.

    Attributes:
        mixed_precision: ``no``, ``bf16`` or ``fp16``; None leaves it to Accelerate's configuration, which is ``no``
            unless a launcher or a config file says otherwise.
        tracker: One of Accelerate's trackers, or ``none``. A JSONL log is always written.
        time_limit: Seconds after which the run saves its state and stops; None for no limit.
        save_every: Steps between two saved states.
        cpu: Stay on the CPU.
        fresh: Start over: the run folder that is there is renamed first, see :meth:`RunFolder.set_aside`.
        progress: Show a progress bar.

    Raises:
        InputError: A value is out of range, or the tracker is not available.
    """

    mixed_precision: str | None = None
    tracker: str = "none"
    time_limit: float | None = None
    save_every: int = 500
    cpu: bool = False
    fresh: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise InputError(f"--save-every {self.save_every} is out of range; give 1 or more")
        available = [tracker.value for tracker in get_available_trackers()]
        if self.tracker not in ("none", *available):
            known = [tracker.value for tracker in LoggerType if tracker != LoggerType.ALL]
            remedy = "install its package" if self.tracker in known else near(self.tracker, known)
            raise InputError(f"--tracker {self.tracker} is not available; {remedy}")

    def accelerator(self, folder: RunFolder) -> Accelerator:
        """The Accelerator these options ask for."""
        trackers = None if self.tracker == "none" else self.tracker
        accelerator = Accelerator(
            mixed_precision=self.mixed_precision, cpu=self.cpu, log_with=trackers, project_dir=str(folder.path)
        )
        if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
            raise InputError("--mixed-precision fp16 does not run on a CPU; give bf16 or no")
        return accelerator


@dataclass(frozen=True)
class Trained:
    """A finished or stopped run.

    Attributes:
        finished: False when it was stopped before the last step; the state is saved.
        step: Steps done.
        seconds: Spent training, over all attempts.
        threads: CPU threads of each process.
        processes: How many processes there were.
        device: Where it ran: the GPU's name, or the kind of processor.
        dtype: ``float32``, or the mixed precision.
        raw: Metrics of the raw weights after the last step; None when stopped.
        median20: Median top-1 of the averaged weights over the last 20 evaluations.
    """

    finished: bool
    step: int
    seconds: float
    threads: int
    processes: int
    device: str
    dtype: str
    raw: Metrics | None = None
    median20: float | None = None


def prepare_data(recipe: Recipe) -> tuple[DataSet, Split, LabelledImages]:
    """Loads a recipe's data set, makes its split, and picks the images it is evaluated on.

    Raises:
        InputError: The data set is unknown, or the label budget does not fit it.
    """
    dataset = load_dataset(recipe.dataset)
    train, info = dataset.train, dataset.info
    split = make_split(recipe.dataset, train.labels.tolist(), info.num_classes, recipe.labels, recipe.seed, recipe.fold)
    if recipe.fold == "test":
        return dataset, split, dataset.test
    held_out = torch.tensor(split.held_out)
    return dataset, split, LabelledImages(train.images[held_out], train.labels[held_out])


def build_model(recipe: Recipe, dataset: DataSet) -> nn.Module:
    """The recipe's network, with the initial weights of its seed."""
    if not timm.is_model(recipe.arch):
        raise InputError(f"arch={recipe.arch} is unknown to timm; {near(recipe.arch, timm.list_models())}")
    info = dataset.info
    torch.manual_seed(recipe.seed)
    model = timm.create_model(
        recipe.arch, num_classes=info.num_classes, in_chans=info.input_size[0], drop_rate=recipe.drop_rate
    )
    least, size = model.pretrained_cfg.get("min_input_size") or (1, 1, 1), info.input_size
    if min(size[1:]) < min(least[1:]):
        raise InputError(
            f"arch={recipe.arch} takes images of {least[1]}x{least[2]} and more, {info.name} has {size[1]}x{size[2]}; "
            "give another arch"
        )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.bn_momentum
    return model.to(memory_format=torch.channels_last)  # faster on CPU and GPU; the numbers are the same


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and norms do not decay."""
    if recipe.optimizer not in list_optimizers():
        raise InputError(
            f"optimizer={recipe.optimizer} is unknown to timm; {near(recipe.optimizer, list_optimizers())}"
        )
    return create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def train_step(model: nn.Module, teacher: nn.Module, method: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
    """The forward half of a step: prepare, one forward on all inputs together, the loss by view.

    Returns:
        The method's terms; ``loss`` carries the gradient.
    """
    with torch.no_grad():
        batch = prepare(method, batch, model, teacher, step)
    images = torch.cat(list(batch.inputs.values())).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    outputs = dict(zip(batch.inputs, logits.split([len(view) for view in batch.inputs.values()]), strict=True))
    return method.loss(outputs, batch, step)


def fit(recipe: Recipe, folder: RunFolder, options: Options | None = None) -> Trained:
    """Trains a recipe in a run folder, or goes on with it.

    Args:
        recipe: What to train.
        folder: Where to; :meth:`RunFolder.check` has passed, or the options say ``fresh``.
        options: How.

    Returns:
        How it ended. The folder's state holds weights, averaged weights and everything else of the last step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes; nothing was written.
        TrainingError: The loss is not finite, or the saved state cannot be read.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.cpu_threads or before)
    try:
        return _fit(recipe, folder, options or Options())
    finally:
        torch.set_num_threads(before)


def _fit(recipe: Recipe, folder: RunFolder, options: Options) -> Trained:
    dataset, split, evaluation = prepare_data(recipe)
    model = build_model(recipe, dataset)
    method = create_method(recipe.method, recipe.options)
    accelerator = options.accelerator(folder)
    device, world = accelerator.device, accelerator.num_processes
    train_images = LabelledImages(dataset.train.images.to(device), dataset.train.labels.to(device))
    batches = Batches(recipe, train_images, dataset.info, split, method.views, accelerator.process_index, world)

    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True).to(device)
    if world > 1:
        synchronise_batchnorm(model)
    optimizer = build_optimizer(recipe, model)
    method = method.to(device)
    model, optimizer = accelerator.prepare(model, optimizer)
    raw = accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # evaluated in float32; the loop turns autocast on
    dtype = "float32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision

    start, seconds_before = 0, 0.0
    if options.fresh:
        if accelerator.is_main_process:
            folder.set_aside()
        accelerator.wait_for_everyone()
    if (loaded := load_state(folder.state_dir)) is not None:
        parts, values = loaded
        raw.load_state_dict(parts["model"])
        ema.module.load_state_dict(parts["ema"])
        method.load_state_dict(parts["method"])
        load_optimizer_tensors(optimizer.optimizer, parts["optimizer"])
        start, seconds_before = values["step"], values["seconds"]
        if values["dtype"] != dtype:
            raise InputError(
                f"--mixed-precision: the run was begun in {values['dtype']}, not {dtype}; give the same, or --fresh"
            )
    if accelerator.is_main_process:
        folder.open(recipe)
        write_json(folder.split_file, split.to_dict())
        folder.rewind_log(start)
        folder.write_status("running", start, recipe.steps)
    accelerator.wait_for_everyone()
    if options.tracker != "none":
        accelerator.init_trackers("muscle_zoo", config=_flat(recipe.to_dict()))

    began = time.monotonic()

    def seconds() -> float:
        return seconds_before + time.monotonic() - began

    def log(step: int, row: dict[str, float]) -> None:
        if accelerator.is_main_process:
            folder.log(step, {**row, "seconds": round(seconds(), 3)})
        if options.tracker != "none":
            accelerator.log(row, step=step)

    def save(step: int, terms: dict[str, Tensor]) -> None:
        tensors = [terms["loss"], *raw.state_dict().values(), *ema.module.state_dict().values()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise TrainingError(_not_finite(step, {name: value.item() for name, value in terms.items()}))
        if accelerator.is_main_process:
            parts = {
                "model": raw.state_dict(),
                "ema": ema.module.state_dict(),
                "method": method.state_dict(),
                "optimizer": optimizer_tensors(optimizer.optimizer),
            }
            save_state(folder.state_dir, step, parts, {"seconds": round(seconds(), 3), "dtype": dtype})
        accelerator.wait_for_everyone()

    def measure(network: nn.Module) -> Metrics:
        total = partial(reduce_over_processes, reduction="sum") if world > 1 else None
        return evaluate(
            network, evaluation, dataset.info, rank=accelerator.process_index, world_size=world, reduce=total
        )

    def ended(finished: bool, step: int, **results: Any) -> Trained:
        for tracker in accelerator.trackers:  # end_training() would also part the processes
            tracker.finish()
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}"
        return Trained(finished, step, seconds(), torch.get_num_threads(), world, device_name, dtype, **results)

    log_every = max(1, recipe.steps // LOG_ROWS)
    show = options.progress and accelerator.is_main_process
    model.train()
    with StopSignal(options.time_limit) as stop, _progress(recipe, start, show) as bar:
        for step in range(start, recipe.steps):
            rate = learning_rate(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(step_seed(recipe.seed, step, accelerator.process_index))  # dropout's
            with accelerator.autocast():
                terms = train_step(model, ema.module, method, batches.at(step), step)
            accelerator.backward(terms["loss"])
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            ema.update(raw, step=done)
            bar.update()
            if done % log_every == 0 or done == recipe.steps:
                row = _global_means(terms, accelerator)
                if not math.isfinite(row["loss"]):
                    raise TrainingError(_not_finite(done, row))
                log(done, {"lr": rate, **row})
            if done % recipe.eval_every == 0 or done == recipe.steps:
                metrics = {"raw": measure(raw), "ema": measure(ema.module)}
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
    return ended(True, recipe.steps, raw=measure(raw), median20=statistics.median(rows[-20:]))


def _progress(recipe: Recipe, start: int, show: bool) -> tqdm[Any]:
    # None: a bar on a terminal only
    disable = None if show else True
    return tqdm(total=recipe.steps, initial=start, desc=recipe.name, unit="step", disable=disable, dynamic_ncols=True)


def _global_means(terms: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    values = torch.stack([value.detach().float() for value in terms.values()])
    if accelerator.num_processes > 1:
        values = reduce_over_processes(values, reduction="mean")
    return {name: float(f"{value:.6g}") for name, value in zip(terms, values.tolist(), strict=True)}


def _agreed(requested: bool, step: int, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return requested
    if step % AGREE_EVERY:
        return False
    told = torch.tensor(float(requested), device=accelerator.device)
    return bool(reduce_over_processes(told, reduction="sum") > 0)


def _not_finite(step: int, row: dict[str, float]) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in row.items())
    return f"the loss is not finite at step {step} ({shown}); lower lr, or go back with the state that is saved"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
