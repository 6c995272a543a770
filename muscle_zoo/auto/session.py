"""One's own pictures, end to end: looked at, embedded, compared, and the best method trained on all labels."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..data import DataConfig, DataSet, load_dataset
from ..data.manifest import changes_since, manifest_of
from ..engine.build import prepare_data
from ..engine.frozen import embed_data
from ..engine.held_out import calibrate_held_out
from ..engine.options import RunOptions, process_state
from ..engine.run_folder import RunFolder
from ..engine.stop import StopSignal
from ..engine.threads import cpu_threads
from ..errors import START_OVER, InputError, StoppedError
from ..files import read_json, write_json
from ..recipes import Recipe
from ..sessions.train import PICTURES, RunResult, own_accelerate_state, train_run
from . import words
from .choices import Choices
from .compare import CrossValidation
from .findings import COMPARISON, Comparison, Interval, OutOfFold
from .folds import draw_folds
from .intervals import wilson
from .plan import SIDES, Plan, make_plan
from .report import REPORT, write_report
from .run_pictures import load_run_pictures
from .sides import choose_side, side_of
from .speed import Speed, measure
from .verdict import judge, without_comparison

FOLDER = "comparison"  # in the run folder: what is compared, and what each fold gave until all are done
PLAN = "plan.json"

Say = Callable[[str], None]


def train_pictures(
    root: Path,
    choices: Choices | None = None,
    options: RunOptions | None = None,
    out: Path | None = None,
    began: float | None = None,
    say: Say = print,
) -> RunResult:
    """Compares what may be done with a user's pictures, and trains the best, or goes on with that.

    Ctrl-C, SIGTERM and the time limit stop it, with what was done kept; the same call goes on. With what it found it
    leaves ``comparison.json`` and ``out_of_fold.safetensors`` (:mod:`muscle_zoo.auto.findings`) in the run folder.

    Args:
        root: A folder or CSV, see :func:`muscle_zoo.data.picture_folder.find_pictures`.
        choices: What is to be otherwise than by default.
        options: How it is carried out; of ``data``, where the pictures are is ``root``.
        out: The run folder; ``runs/NAME`` by default.
        began: When the time limit began to count, as time.monotonic() tells it; now, by default.
        say: Prints some lines.

    Returns:
        The run of the chosen method; not ``finished`` where it was stopped.

    Raises:
        InputError: The folder, a choice or the run folder does not fit; nothing was written.
        TrainingError: Training could not go on.
    """
    options, began = options or RunOptions(), time.monotonic() if began is None else began
    out = Path("runs") / own_name(root) if out is None else out
    options = replace(options, data=replace(options.data or DataConfig(), root=root))
    with own_accelerate_state():
        if process_state(options.cpu).num_processes > 1:
            raise InputError(
                f"{root}: several processes train a recipe by its name; give one, or leave the launcher out"
            )
        choices = choices or Choices()
        plan = make_plan(root, choices, SIDES[0] if options.fresh else side_of(out / FOLDER / PLAN))
        _require_outside(out, plan)
        say(words.joined(words.found_lines(plan)))
        work = _Work(plan, choices, out, options, began, say)
        if not options.fresh and (done := work.finished()) is not None:
            return done
        try:
            return work.carry_out()
        except StoppedError as stopped:
            say(str(stopped))
        except KeyboardInterrupt:  # while pictures are read; a second one while they are embedded
            pass
        return RunResult(plan.control, out, False)


def own_name(root: Path) -> str:
    """What a run on a user's pictures is called by default: as their folder, or as the table without its ending."""
    whole = root.expanduser().resolve()
    return (whole.name if whole.is_dir() else whole.stem) or "pictures"


def _require_outside(out: Path, plan: Plan) -> None:
    """Refuses a run folder among the pictures: its curves would be taken for one at the next call."""
    places = [Path(plan.found.data), Path(plan.found.root)]
    if any(place.is_dir() and out.resolve().is_relative_to(place) for place in places):
        raise InputError(f"run folder {out} would lie among the pictures; give one elsewhere (--out)")


class _Work:
    """What is done with a plan, in its order."""

    def __init__(self, plan: Plan, choices: Choices, out: Path, options: RunOptions, began: float, say: Say) -> None:
        self.choices = choices
        self.plan, self.out, self.options, self.say = plan, out, options, say
        self.deadline = None if options.time_limit is None else began + options.time_limit
        self.folder = out / FOLDER
        self.dataset: DataSet | None = None
        RunFolder(out).check_kind()
        if not options.fresh:
            self._require_the_same()

    def _require_the_same(self) -> None:
        """Refuses to go on with other pictures or other settings than it was begun with.

        Raises:
            InputError: They are others.
        """
        if (self.folder / PLAN).exists():
            before, now = read_json(self.folder / PLAN), self.plan.settings
            if differ := _difference(before, now):
                raise InputError(
                    f"run folder {self.out} was begun with {differ}; give another folder (--out), or {START_OVER}"
                )
        elif (self.out / "recipe.json").exists():
            raise InputError(f"run folder {self.out} is of a recipe; give another folder (--out), or {START_OVER}")
        if (self.out / PICTURES).exists():
            changes = changes_since(read_json(self.out / PICTURES), manifest_of(self.plan.listing))
            if changes:
                raise InputError(
                    f"run folder {self.out}: the pictures are not those it was begun with: {changes}; give another "
                    f"folder (--out), {START_OVER}, or restore them"
                )

    def finished(self) -> RunResult | None:
        """The run, if all is done already."""
        if not (self.out / COMPARISON).exists() or not (self.out / "status.json").exists():
            return None
        comparison = Comparison.read(self.out)
        if RunFolder(self.out).read_status().get("status") != "finished":
            return None
        return self._conclude(comparison)

    def carry_out(self) -> RunResult:
        """Does all that is left to do."""
        options = self.options
        device = process_state(options.cpu).device
        speed = self._measure(device)
        plan = self.plan
        self.say(words.joined(words.will_lines(plan, speed, self.out, options.time_limit)))
        if options.fresh and (old := RunFolder(self.out).set_aside()) is not None:
            self.say(f"the previous run was moved to {old}")
        self.options = replace(options, fresh=False)
        if (self.out / COMPARISON).exists():
            comparison: Comparison | None = Comparison.read(self.out)
        else:
            with RunFolder(self.folder).locked():
                comparison = self._compare(speed, device)
        if comparison is None:
            return RunResult(plan.control, self.out, False)
        self.say("\n" + words.joined(words.comparison_lines(comparison)) + "\n")
        with cpu_threads(speed.step_threads):
            return self._conclude(comparison)

    def _measure(self, device: torch.device) -> Speed:
        """How long it takes; small pictures become larger ones where there is time, unless all was begun before."""
        options = self.options
        speed = measure(self.plan, device, options.data.workers if options.data else 0)
        if self.plan.may_be_larger and (options.fresh or not (self.folder / PLAN).exists()):
            side = choose_side(speed, self._seconds_left())
            assert options.data is not None and options.data.root is not None
            self.plan = make_plan(options.data.root, self.choices, side.pixels)
            self.say(words.joined(words.side_lines(side.why)))
            return side.speed
        return speed

    def _compare(self, speed: Speed, device: torch.device) -> Comparison | None:
        """The comparison, written; None where it was stopped."""
        plan = self.plan
        dataset = self._loaded()
        data = prepare_data(plan.control, self.options.data, dataset)
        # Before the long part: where that is stopped, the same call goes on with the same settings, image_size too.
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.out / PICTURES, manifest_of(plan.listing))
        write_json(self.folder / PLAN, plan.settings)
        with StopSignal(self._seconds_left()) as stop, cpu_threads(speed.embedding_threads):
            used = list(plan.recipes.values()) if plan.folds else [plan.recipes[plan.fallback]]
            data = embed_data(plan.control, data, device, self.options.progress, lambda: stop.requested, used)
        if not plan.folds:
            comparison = without_comparison(plan)
            comparison.write(self.out)
            return comparison
        labels = dataset.train.labels[list(data.split.labeled)].tolist()
        fold = draw_folds(labels, len(plan.classes), plan.folds, plan.repeats, plan.control.seed)
        validation = CrossValidation(plan.recipes, data, fold, self.folder, self.options)
        with cpu_threads(speed.step_threads):
            if not self._all_folds(validation):
                return None
        said, seconds = validation.out_of_fold()
        comparison = judge(plan, said, seconds)
        said.write(self.out)
        comparison.write(self.out)  # after the other: where it is there, all of it is
        validation.forget_parts()
        return comparison

    def _all_folds(self, validation: CrossValidation) -> bool:
        """Does what is left of the folds; whether all are done."""
        total = len(validation.parts())
        if done := validation.number_done():
            self.say(f"{done} of {total} folds were compared before")
        show = self.options.progress
        bar = tqdm(total=total, desc="comparing", unit="fold", disable=None if show else True, leave=False)
        with StopSignal(self._seconds_left()) as stop, bar:
            for number, (method, there) in enumerate(validation.run(), start=1):
                bar.update()
                bar.set_postfix_str(method)
                if show and bar.disable and not there and number * 10 // total > (number - 1) * 10 // total:
                    print(f"compared {number} of {total} folds", file=sys.stderr, flush=True)
                if stop.requested and number < total:
                    return False
        return True

    def _loaded(self) -> DataSet:
        """The pictures, read once."""
        if self.dataset is None:
            self.dataset = load_dataset("folder", self.options.data, self.plan.side)
        return self.dataset

    def _seconds_left(self) -> float | None:
        """Of the time limit; None where there is none."""
        return None if self.deadline is None else max(1e-6, self.deadline - time.monotonic())

    def _conclude(self, comparison: Comparison) -> RunResult:
        """Trains the chosen method on all labels, and says what became of it."""
        recipe = self.plan.recipes[comparison.chosen]
        options = replace(self.options, time_limit=self._seconds_left())
        is_finished = RunFolder(self.out).read_status().get("status") == "finished"
        if not is_finished:
            self._remember_confidence(comparison)
        result = train_run(recipe, self.out, options, loaded=None if is_finished else self._loaded())
        if not result.finished:
            return result
        if result.row is not None and recipe.fold == "test":
            share, n = result.row.top1_ema, result.row.n_test
            comparison = replace(comparison, test=Interval(share, *wilson(share, n)))
            comparison.write(self.out)
        self.say(words.joined(words.result_lines(comparison, self.out)))
        if not (self.out / REPORT).exists():
            pictures = load_run_pictures(self.out, self.options.data, self.options.cpu, self._loaded())
            write_report(self.out, pictures=pictures)
        self.say(f"{self.out / REPORT}: open it in a browser")
        return result

    def _remember_confidence(self, comparison: Comparison) -> None:
        """Writes down how sure the chosen method is of pictures it has not seen, for the export's temperature."""
        file = RunFolder(self.out).calibration_file
        said = OutOfFold.read(self.out) if comparison.folds and not file.exists() else None
        if said is not None:
            probabilities, labels, images = said.held_out(comparison.chosen)
            calibrate_held_out(probabilities, labels, images).write(file)


def _difference(before: Any, now: dict[str, Any]) -> str:
    """The first setting that is another, in words; empty where none is."""
    if not isinstance(before, dict):
        return "settings that cannot be read"
    for key in ("backbone", "methods", "folds", "repeats"):
        if before.get(key) != now[key]:
            shown = [", ".join(value) if isinstance(value, list) else value for value in (before.get(key), now[key])]
            return f"{key} {shown[0]}, not {shown[1]}"
    for method, recipe in now["recipes"].items():
        # As a recipe: one that was written before a field came has the field's default.
        old = Recipe.from_dict(before.get("recipes", {}).get(method, {})).to_dict()
        for key, value in recipe.items():
            if old.get(key) != value and key != "eval_every":  # which follows from the steps
                return f"{key}={old.get(key)} ({method}), not {value}"
    return "" if before.get("format") == now["format"] else "another version of this package"
