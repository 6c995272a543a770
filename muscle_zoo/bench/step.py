"""What a training step costs, next to the bare network."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSet
from ..engine.build import Data, build_model, split_of
from ..engine.fit import LOG_ROWS
from ..engine.options import RunOptions
from ..engine.run_folder import RunFolder
from ..engine.stage_timer import StageTimer
from ..engine.trainer import Trainer
from ..losses import MutualInformationLoss
from ..methods import Batch
from ..recipes import Recipe
from .evaluation import bench_eval
from .timing import median_seconds

ROUNDS = 12  # of the breakdown; the first third warms up
PROFILED = 20  # steps under the profiler


def bench_step(recipe: Recipe, dataset: DataSet, options: RunOptions, test_images: int | None = None) -> dict[str, Any]:
    """Measures a recipe's training step.

    With ``probe_steps`` it is a step after these, and ``recipe_hours`` takes all of them for such.

    Args:
        recipe: What to train.
        dataset: On what; its images may be random ones.
        options: How; precision, compilation and device count.
        test_images: Images of an evaluation, for ``recipe_hours``; those of the data set by default.

    Returns:
        ``steps_per_s`` and ``images_per_s``, of the images that go through the gradient forward; the same of the bare
        network, ``bare_images_per_s``: forward, cross-entropy and backward on as many images in the same precision,
        channels last, in turn with the steps; ``fraction_of_bare``; ``share``: of the step, by part; ``mi_share``:
        what the mutual information term costs of this step, whether or not the method has it; ``recipe_hours``, with
        its evaluations; ``peak_memory_mb``: of the GPU, or of the process; on a GPU ``gpu_idle``, the share of a step
        in which it computes nothing, and ``kernels``, the longest ones' shares of what it computes.
    """
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(recipe, dataset, options, Path(folder))
        dataset = stepper.dataset
        device = stepper.trainer.device
        images = stepper.images
        bare = bare_step(recipe, dataset, stepper.trainer.accelerator, images)
        stepper.breakdown(2)  # oneDNN and cuDNN choose, memory is taken, the network is compiled
        seconds = median_seconds({"step": stepper, "bare": bare}, device)
        parts = stepper.breakdown(ROUNDS)
        mi = mi_seconds(recipe, dataset.info.num_classes, device)
        kernels = kernel_seconds(stepper, PROFILED) if device.type == "cuda" else {}
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes()
    whole = seconds["step"]
    rate = bench_eval(recipe, dataset, options)["images_per_s"]
    evaluations = math.ceil(recipe.steps / recipe.eval_every) * 2 * (test_images or len(dataset.test))
    on_gpu: dict[str, Any] = {}
    if kernels:
        busy = sum(kernels.values())
        longest = sorted(kernels.items(), key=lambda item: -item[1])[:8]
        on_gpu["gpu_idle"] = round(1 - busy / whole, 3)
        on_gpu["kernels"] = {name[:60]: round(value / busy, 3) for name, value in longest}
    return {
        "images_per_step": images,
        "images_per_s": round(images / whole, 1),
        "steps_per_s": round(1 / whole, 3),
        "bare_images_per_s": round(images / seconds["bare"], 1),
        "fraction_of_bare": round(seconds["bare"] / whole, 3),
        "share": {name: round(value / sum(parts.values()), 4) for name, value in parts.items()},
        "mi_share": round(mi / whole, 4),
        "recipe_hours": round((recipe.steps * whole + evaluations / rate) / 3600, 3),
        "peak_memory_mb": round(memory / 2**20, 1),
        **on_gpu,
        "precision": stepper.trainer.accelerator.mixed_precision,
        "compile": options.compile,
    }


class Stepper:
    """A run's steps, one after the other, without its evaluations and states.

    Args:
        recipe: What to train.
        dataset: On what.
        options: How.
        folder: For the log.
        data: What the recipe's data are, where they are no images: embeddings, and the classifier on them.

    Attributes:
        trainer: What takes the steps.
        dataset: What of the data set is the recipe's task.
        images: Images of a step that go through the gradient forward.
    """

    def __init__(
        self, recipe: Recipe, dataset: DataSet, options: RunOptions, folder: Path, data: Data | None = None
    ) -> None:
        if data is None:
            data = Data(*split_of(recipe, dataset), dataset.test)
        self.dataset = data.dataset
        self._folder = RunFolder(folder / "run")
        self._folder.open(recipe)
        accelerator = options.accelerator(self._folder, recipe.accumulate)
        self.trainer = Trainer(recipe, data, accelerator, options.compile)
        self.trainer.model.train()
        self._log_every = max(1, recipe.steps // LOG_ROWS)
        self._steps = self._numbered_batches(recipe.probe_steps, recipe.steps)  # those of the probe are cheaper
        batch = self.trainer.batches.at(0)
        _, prepared = self.trainer.predict(batch, 0)
        self.images = sum(len(view) for view in prepared.inputs.values())

    def _numbered_batches(self, first: int, steps: int) -> Iterator[tuple[int, Batch]]:
        while True:
            yield from enumerate(self.trainer.batches.steps(first, steps), first)

    def __call__(self) -> None:
        """One step as a run takes it, its row of the log included."""
        step, batch = next(self._steps)
        logged = (step + 1) % self._log_every == 0
        terms, hits = self.trainer.step(step, batch, logged)
        if logged:
            self._folder.log(step, self.trainer.row(terms, hits))

    def breakdown(self, rounds: int) -> dict[str, float]:
        """Median seconds of each part of a step; a row of the log counts as one step's share of it."""
        trainer, timer = self.trainer, StageTimer(self.trainer.device)
        for _ in range(rounds):
            timer.start()
            step, batch = next(self._steps)
            timer.lap("views")
            terms, hits = trainer.step(step, batch, timer=timer)
            self._folder.log(step, trainer.row(terms, hits))
            timer.lap("log")
        medians = timer.medians(skip=rounds // 3)
        medians["log"] /= self._log_every
        return medians


def bare_step(recipe: Recipe, dataset: DataSet, accelerator: Any, images: int) -> Callable[[], None]:
    """The network alone on random images: forward, cross-entropy, backward, gradients set to None."""
    device = accelerator.device
    model: nn.Module = build_model(recipe, dataset).to(device).train()
    x = torch.randn(images, *dataset.info.input_size, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(images, device=device) % dataset.info.num_classes

    def step() -> None:
        with accelerator.autocast():
            logits = model(x)
        F.cross_entropy(logits.float(), y).backward()
        model.zero_grad(set_to_none=True)

    return step


def mi_seconds(recipe: Recipe, num_classes: int, device: torch.device) -> float:
    """Seconds of the mutual information term, forward and backward, on a step's unlabeled logits."""
    loss = MutualInformationLoss()
    views: list[Tensor] = [
        torch.randn(max(1, recipe.batch_size * recipe.mu), num_classes, device=device, requires_grad=True)
        for _ in range(2)
    ]

    def term() -> None:
        torch.autograd.grad(loss(*views), views)

    return median_seconds({"mi": term}, device, seconds=0.05)["mi"]


def kernel_seconds(work: Callable[[], None], calls: int) -> dict[str, float]:
    """Seconds that a GPU computes in one call, by kernel; copies count too."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(calls):
            work()
        torch.cuda.synchronize()
    seconds: dict[str, float] = {}
    for event in trace.events():
        if event.device_type == DeviceType.CUDA:
            seconds[event.name] = seconds.get(event.name, 0.0) + event.time_range.elapsed_us() / 1e6 / calls
    return seconds


def resident_bytes() -> int:
    """The most memory that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
