"""Time to accuracy: how long a recipe trains until it has a given accuracy on the dev fold."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data import DataConfig, DataSet, load_dataset
from ..data.embedded import EmbeddedImages
from ..engine.build import prepare_data, to_device
from ..engine.evaluate import evaluate
from ..engine.frozen import backbone_of, embed_data
from ..engine.options import RunOptions
from ..engine.run_folder import RunFolder
from ..engine.stage_timer import wait
from ..engine.teacher import require_teacher
from ..engine.trainer import Trainer
from ..errors import InputError
from ..methods import learns_from_teacher, trains_classifier
from ..recipes import Recipe

WARM_UP = 3  # steps before the clock starts, of a trainer that is thrown away

Say = Callable[[str], None]


@dataclass(frozen=True)
class Lap:
    """An evaluation on the way.

    Attributes:
        step: Steps done.
        seconds: Trained so far, embedding included, evaluations not.
        top1: Share of the dev fold that the averaged weights get right.
    """

    step: int
    seconds: float
    top1: float


@dataclass(frozen=True)
class Race:
    """A recipe's run to the target, at one seed.

    Attributes:
        seed: Its seed.
        laps: Its evaluations, up to the first that reaches the target.
        operations: Floating-point operations up to the last lap, a multiplication and an addition counted as two;
            convolutions, matrix products and attention alone.
        reached: Whether the last lap reaches the target.
    """

    seed: int
    laps: tuple[Lap, ...]
    operations: float
    reached: bool


def bench_race(
    recipe: Recipe, target: float, seeds: int, options: RunOptions, config: DataConfig, say: Say = print
) -> dict[str, Any]:
    """Trains a recipe until it reaches an accuracy on the dev fold, and tells how long that took.

    The clock starts with the first step, after some steps of a trainer that is thrown away, and stands still during
    evaluations, of which there is one every ``eval_every`` steps. With ``tune=head`` the backbone's pass over the
    images counts at each seed; the embeddings of before are not used.

    Args:
        recipe: What is trained; its fold becomes ``dev``, for a target is a choice that test images must not see.
        target: Accuracy of the averaged weights, above 0.01 and at most 1.
        seeds: How many: 0, 1, ...
        options: Precision, device, compilation.
        config: Where the images are.
        say: Prints a line for each evaluation.

    Returns:
        ``races``, a :class:`Race` for each seed; ``reached``, how many of them reached the target; and over all the
        medians ``seconds``, ``steps`` and ``operations``, where a race that did not reach it counts as later than any
        that did (None where that is the median; of two in the middle the later one).

    Raises:
        InputError: See :func:`require_race`.
    """
    require_race(recipe, target, seeds)
    dataset = load_dataset(recipe.dataset, config, recipe.image_size)
    races = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder, _empty_cache(folder):
            runner = _Runner(replace(recipe, seed=seed, fold="dev"), dataset, options, Path(folder))
            races.append(runner.race(target, say))
    return {
        "target": target,
        **_medians(races),
        "precision": options.mixed_precision or "no",
        "races": [asdict(race) for race in races],
    }


def require_race(recipe: Recipe, target: float, seeds: int) -> None:
    """Refuses what is no race; arguments as for :func:`bench_race`.

    Raises:
        InputError: The target or the number of seeds is out of range, the method trains no classifier or takes no
            steps, or its teacher is missing.
    """
    if not 0.01 < target <= 1:  # 0.8 is meant as a share, and any network would have 0.8 per cent
        raise InputError(f"--target {100 * target:g} is out of range; give per cent, above 1 and at most 100")
    if seeds < 1:
        raise InputError(f"--seeds {seeds} is out of range; give 1 or more")
    if not trains_classifier(recipe.method):
        raise InputError(f"bench race: {recipe.method} trains no classifier whose accuracy could grow; give another")
    if recipe.steps < 1:
        raise InputError(f"bench race: {recipe.method} takes no steps to an accuracy; give a method that does")
    require_teacher(recipe, learns_from_teacher(recipe.method, recipe.options))


def _medians(races: list[Race]) -> dict[str, Any]:
    """Medians over all races, where one that did not reach the target counts as later than any that did."""

    def median(value: Callable[[Race], float]) -> float | None:
        middle = statistics.median_high(value(race) if race.reached else math.inf for race in races)
        return None if middle == math.inf else middle  # one that was measured, not the mean of two

    return {
        "seeds": len(races),
        "reached": sum(race.reached for race in races),
        "seconds": median(lambda race: race.laps[-1].seconds),
        "steps": median(lambda race: race.laps[-1].step),
        "operations": median(lambda race: race.operations),
    }


class _Runner:
    """One seed's run."""

    def __init__(self, recipe: Recipe, dataset: DataSet, options: RunOptions, folder: Path) -> None:
        self.recipe, self.options, self.folder = recipe, options, folder
        self.accelerator = options.accelerator(RunFolder(folder))
        self.device: torch.device = self.accelerator.device
        self.data = prepare_data(recipe, None, dataset)
        self.seconds, self.operations = 0.0, 0.0
        if recipe.tune == "head":
            self._embed()
        self.evaluation = to_device(self.data.evaluation, self.device)

    def _embed(self) -> None:
        """The backbone's pass over the images, on the clock."""
        pictures = self.data

        def whole() -> None:
            self.data = embed_data(self.recipe, pictures, self.device)

        self.seconds += self._timed(whole)
        backbone = backbone_of(self.recipe, pictures.dataset, self.device)
        image = torch.zeros(1, *pictures.dataset.info.input_size, device=self.device)
        with torch.no_grad():
            each = _operations(lambda: backbone.network(image))
        embedded = self.data.dataset.train
        assert isinstance(embedded, EmbeddedImages)
        views = 1 + sum(map(len, embedded.draws.values()))  # the plain one and each draw
        self.operations += each * views * len(embedded)

    def _trainer(self) -> Trainer:
        trainer = Trainer(self.recipe, self.data, self.accelerator, self.options.compile)
        trainer.model.train()
        return trainer

    def race(self, target: float, say: Say) -> Race:
        """Trains until an evaluation reaches the target, or to the last step."""
        probe, whole = self._warm_up()
        recipe, trainer = self.recipe, self._trainer()
        laps: list[Lap] = []
        batches = enumerate(trainer.batches.steps(0, recipe.steps))
        done = 0
        while done < recipe.steps and not (laps and laps[-1].top1 >= target):
            chunk = min(recipe.eval_every, recipe.steps - done)
            self.seconds += self._timed(partial(_take, trainer, batches, chunk))
            done += chunk
            top1 = evaluate(trainer.ema.module, self.evaluation, self.data.dataset.info).top1
            laps.append(Lap(done, round(self.seconds, 3), top1))
            say(f"seed {recipe.seed}, step {done}, {self.seconds:.1f} s: {100 * top1:.1f} %")
        reached = laps[-1].top1 >= target
        probed = min(done, recipe.probe_steps)
        operations = self.operations + probe * probed + whole * (done - probed)
        return Race(recipe.seed, tuple(laps), operations, reached)

    def _warm_up(self) -> tuple[float, float]:
        """Some steps that do not count; the operations of one that trains the classifier alone, and of any other."""
        trainer, first = self._trainer(), self.recipe.probe_steps
        batches = iter(trainer.batches.steps(0, WARM_UP + 2))

        def step(number: int) -> None:
            trainer.step(number, next(batches))

        for _ in range(WARM_UP):
            step(first)
        whole = _operations(partial(step, first))
        return (_operations(partial(step, 0)) if first else 0.0), whole

    def _timed(self, work: Callable[[], object]) -> float:
        wait(self.device)
        began = time.perf_counter()
        work()
        wait(self.device)
        return time.perf_counter() - began


def _take(trainer: Trainer, batches: Iterator[tuple[int, Any]], steps: int) -> None:
    """The next so many steps."""
    for step, batch in islice(batches, steps):
        trainer.step(step, batch)


def _operations(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@contextmanager
def _empty_cache(folder: str) -> Iterator[None]:
    """Embeddings are kept in a folder that is empty, as on a machine that never saw these images."""
    before = os.environ.get("MUSCLE_ZOO_CACHE")
    os.environ["MUSCLE_ZOO_CACHE"] = f"{folder}/cache"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUSCLE_ZOO_CACHE"]
        else:
            os.environ["MUSCLE_ZOO_CACHE"] = before
