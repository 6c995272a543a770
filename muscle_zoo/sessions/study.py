"""A study: many paired runs, by several worker processes, that can be stopped and continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import DataSet, load_dataset
from ..data.catalog import FOLDER
from ..engine.build import own_folder
from ..engine.options import RunOptions
from ..engine.run_folder import RunFolder
from ..engine.stop import StopSignal
from ..errors import InputError, MuscleZooError
from ..recipes import Recipe
from ..results.ledger import Row, read_ledger
from ..results.study import recipe_of
from .train import finished_row, train_run

if TYPE_CHECKING:
    from .ray_study import Cluster

Job = tuple[Recipe, Path]
RowKey = tuple[str, str, int]
POLL_SECONDS = 0.5  # how soon Ctrl-C and a time limit are noticed while all workers are busy


@dataclass
class StudyResult:
    """What became of a study.

    Attributes:
        rows: The ledger rows of the runs that are done, in the order of the recipes.
        stopped: Whether it was stopped before the end; the same call goes on.
        failed: What went wrong, one line for each run.
    """

    rows: list[Row] = field(default_factory=list)
    stopped: bool = False
    failed: list[str] = field(default_factory=list)


def run_study(
    recipes: Sequence[Recipe],
    out: Path,
    options: RunOptions,
    jobs: int = 1,
    ledger: Path | None = None,
    done: Sequence[Row] = (),
    part: str = "",
    cluster: Cluster | None = None,
) -> StudyResult:
    """Trains what is not done yet, and gathers the rows of all.

    Args:
        recipes: The runs, see :func:`muscle_zoo.results.study.plan`.
        out: Their folders lie in ``runs/`` below it.
        options: How each is carried out; the time limit is that of the whole study.
        jobs: Runs at a time, each in a process of its own.
        ledger: Runs that are rows of this ledger are taken from it, not run again.
        done: Rows of runs that were done before, in the same way and on the same data.
        part: Which part of a larger study this is, as what is said of it begins: ``value 1 of 3``.
        cluster: Where the runs are carried out, in the place of this machine.

    Raises:
        InputError: A folder holds another recipe or a run on other data, or the ledger or the cluster does not serve.
    """
    known = {**_known_rows(ledger, recipes, options), **{row.key: row for row in done}}
    folders = [out / "runs" / _folder(recipe) for recipe in recipes]
    for recipe, folder in zip(recipes, folders, strict=True):
        RunFolder(folder).check(recipe)
    todo = [job for job in zip(recipes, folders, strict=True) if _row(*job, known, options) is None]
    safe = "; a line follows after each, Ctrl-C is safe: the same command goes on" if todo else ""
    begun = f"{part}: " if part else ""
    print(f"{begun}{len(recipes)} runs, {len(recipes) - len(todo)} of them done; results in {out}{safe}", flush=True)
    result = _carry_out(todo, out, options, jobs, part, cluster) if todo else StudyResult()
    rows = (_row(*job, known, options) for job in zip(recipes, folders, strict=True))
    result.rows = [row for row in rows if row is not None]
    return result


def _carry_out(
    todo: Sequence[Job], out: Path, options: RunOptions, jobs: int, part: str, cluster: Cluster | None
) -> StudyResult:
    if cluster is None:
        return _Pool(todo, options, jobs, part).run()
    from .ray_study import run_on_ray  # which needs a package that most have not

    return run_on_ray(todo, out, options, cluster)


def earlier_rows(out: Path, recipes: Sequence[Recipe], overrides: Mapping[str, str], options: RunOptions) -> list[Row]:
    """The rows of runs that an earlier study left in the folder and this one has not, to stand in one table with its.

    Args:
        out: The study's folder.
        recipes: The runs of this study.
        overrides: What all of them change.
        options: On which data they are.

    Raises:
        InputError: They do not belong into one table: another backbone, other settings or data, another kind of budget.
    """
    planned = {(recipe.name, recipe.sha256, recipe.seed) for recipe in recipes}
    rows = [row for row in read_ledger(out / "results.csv") if row.key not in planned]
    for row in rows:
        if why := _apart(row, recipes[0], overrides):
            raise InputError(f"--out {out} holds another study ({row.name} {why}); give another --out")
        recipe = recipe_of(row.name, {**overrides, "seed": row.seed, "bias": row.labeled_bias})
        finished_row(RunFolder(out / "runs" / _folder(recipe)), own_folder(recipe, options.data))
    return rows


def _apart(row: Row, recipe: Recipe, overrides: Mapping[str, str]) -> str:
    """Why a row cannot stand in one table with a recipe's run, if it cannot."""
    try:
        earlier = recipe_of(row.name, {**overrides, "seed": row.seed, "bias": row.labeled_bias})
    except InputError:
        return "with other settings"
    if earlier.arch != recipe.arch:
        return "of another backbone"
    if isinstance(earlier.labels, int) != isinstance(recipe.labels, int):
        return "with another kind of budget"
    return "" if earlier.sha256 == row.recipe_sha256 else "with other settings"


def _known_rows(ledger: Path | None, recipes: Sequence[Recipe], options: RunOptions) -> Mapping[RowKey, Row]:
    """The rows of a ledger that were run in this precision, by key."""
    if ledger is None:
        return {}
    ledger = ledger / "results.csv" if ledger.is_dir() else ledger
    if not ledger.is_file():
        raise InputError(f"--ledger {ledger} is not a file; give a results.csv, or a study's folder")
    if own := next((recipe.name for recipe in recipes if own_folder(recipe, options.data)), None):
        raise InputError(f"--ledger {ledger}: a ledger does not say whose pictures {own} was trained on; leave it out")
    precision = options.mixed_precision or "no"
    dtype = "float32" if precision == "no" else precision
    return {row.key: row for row in read_ledger(ledger) if row.dtype == dtype}


def _folder(recipe: Recipe) -> str:
    bias = "" if recipe.bias == "none" else f"-{recipe.bias.replace(':', '_')}"
    return f"{recipe.name.replace(':', '_')}{bias}/seed{recipe.seed}"


def _row(recipe: Recipe, folder: Path, known: Mapping[RowKey, Row], options: RunOptions) -> Row | None:
    """The row of a run that is done, on these data; None where it is still to do."""
    row = known.get((recipe.name, recipe.sha256, recipe.seed))
    return row or finished_row(RunFolder(folder), own_folder(recipe, options.data))


class Outcomes:
    """What becomes of a study's runs: noted, and told, as each of them ends.

    Args:
        total: How many runs there are.
        part: Of which part of a larger study, as each line begins.

    Example:
        >>> outcomes = Outcomes(2)
        >>> outcomes.note((recipe, folder), finished=True)  # doctest: +SKIP
        1/2 cnn4.muscle_digits_10 bias=none seed=0; about 3 min left
    """

    def __init__(self, total: int, part: str = "") -> None:
        self.result, self.part = StudyResult(), part
        self.total, self.done = total, 0
        self.began = time.monotonic()

    def note(self, job: Job, finished: bool, error: str = "") -> None:
        """A run has finished, has failed, or, where neither is said, was stopped."""
        recipe, folder = job
        if error:
            self.result.failed.append(f"{folder}: {error}")
        elif not finished:
            self.result.stopped = True
            return
        self.done += 1
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        shown = f"{recipe.name} bias={recipe.bias} seed={recipe.seed}"
        begun, of_it = (f"{self.part}: ", " of it") if self.part else ("", "")
        print(f"{begun}{self.done}/{self.total} {shown}; about {_duration(left)} left{of_it}", flush=True)


@dataclass
class _Worker:
    """A process that trains one run after the other, what it is told through, and what it is busy with."""

    process: BaseProcess
    connection: Connection
    job: Job | None = None


class _Pool:
    """Hands the runs to worker processes, each of which imports once, and replaces one that dies."""

    def __init__(self, todo: Sequence[Job], options: RunOptions, jobs: int, part: str = "") -> None:
        self.todo, self.options = list(todo), options
        self.workers: list[_Worker] = []
        self.size = min(jobs, len(todo))
        self.outcomes = Outcomes(len(todo), part)
        self.told_to_stop = False

    def run(self) -> StudyResult:
        """Runs all of them, or until it is told to stop."""
        with StopSignal(self.options.time_limit) as stop, self._no_process_left_behind():
            while self.todo or self._busy():
                if stop.requested:
                    self._stop()
                self._assign()
                if busy := self._busy():
                    for connection in wait([worker.connection for worker in busy], POLL_SECONDS):
                        self._receive(next(worker for worker in busy if worker.connection is connection))
            for worker in self.workers:
                worker.connection.close()  # it takes this for the end
                worker.process.join()
        return self.outcomes.result

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _stop(self) -> None:
        """Tells the workers, once; each saves its run's state at the end of its step."""
        if self.told_to_stop:
            return
        self.told_to_stop, self.todo, self.outcomes.result.stopped = True, [], True
        for worker in self._busy():
            worker.process.terminate()

    def _assign(self) -> None:
        while self.todo and len(self._busy()) < self.size:
            idle = (worker for worker in self.workers if worker.job is None and worker.process.is_alive())
            worker = next(idle, None) or self._start()
            worker.job = self.todo.pop(0)
            left = self._time_left()
            with suppress(OSError):  # it just died, which is noticed when it is listened to
                options = replace(self.options, time_limit=left, progress=False, fresh=False)
                worker.connection.send((*worker.job, options))

    def _time_left(self) -> float | None:
        limit = self.options.time_limit
        return None if limit is None else max(limit - (time.monotonic() - self.outcomes.began), 1e-6)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,))
        process.start()
        theirs.close()  # else its end would never be seen here
        worker = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> None:
        """Takes note of what a worker has to say of its run; one that died has nothing, and another takes its place."""
        assert worker.job is not None
        job, worker.job = worker.job, None
        try:
            finished, error = worker.connection.recv()
        except (EOFError, ConnectionError):  # the latter where it died before it had read what to do
            worker.process.join()
            self.workers.remove(worker)
            finished, error = False, f"its process died: {how_it_died(worker.process.exitcode)}"
        self.outcomes.note(job, finished, error)
        if not (finished or error):
            self.todo = []

    @contextmanager
    def _no_process_left_behind(self) -> Iterator[None]:
        """Ends the workers when an error, or a second Ctrl-C, ends the study."""
        try:
            yield
        except BaseException:
            for worker in self.workers:
                worker.process.kill()
            raise


def _work(connection: Connection) -> None:
    """What a worker does: the next run, until there is none or it is told to stop."""
    if hasattr(os, "setsid"):  # a terminal's Ctrl-C is the parent's: it tells each worker, once
        os.setsid()
    # Else what reads pictures would be spawned too, as this process was, and import torch every time.
    multiprocessing.set_start_method(None, force=True)
    last = LastDataSet()
    with StopSignal(None) as stop, suppress(EOFError):
        while True:
            recipe, folder, options = connection.recv()
            connection.send((False, "") if stop.requested else attempt(recipe, folder, options, last))


class LastDataSet:
    """The data set of a worker's last run: most runs of a study have the same, and 50,000 JPEG files take seconds."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._dataset: DataSet | None = None

    def of(self, recipe: Recipe, options: RunOptions) -> DataSet | None:
        """A recipe's data set, as it was read for the run before or read now; None of a user's own pictures.

        Those may change between two runs: each run reads them itself, and says which it has seen.
        """
        if recipe.dataset == FOLDER:
            return None
        key = (recipe.dataset, recipe.image_size, options.data)
        if key != self._key:
            self._key, self._dataset = (), None  # two are not held at a time
            self._dataset = load_dataset(recipe.dataset, options.data, recipe.image_size)
            self._key = key
        return self._dataset


def attempt(recipe: Recipe, folder: Path, options: RunOptions, last: LastDataSet | None = None) -> tuple[bool, str]:
    """Trains one of a study's runs, or goes on with it, in the process that is called.

    Args:
        recipe: What to train.
        folder: The run folder.
        options: How.
        last: What this process has read before.

    Returns:
        Whether it is finished, and what went wrong; neither where it was stopped.

    Example:
        >>> finished, error = attempt(recipe, folder, RunOptions(cpu=True))  # doctest: +SKIP
    """
    try:
        loaded = None if last is None else last.of(recipe, options)
        return train_run(recipe, folder, options, loaded=loaded).finished, ""
    except MuscleZooError as problem:
        return False, str(problem)
    except Exception as problem:  # whatever ends one run, the others go on
        sys.excepthook(type(problem), problem, problem.__traceback__)
        return False, f"{type(problem).__name__}: {problem}"


def how_it_died(exitcode: int | None) -> str:
    """What a dead process's exit code says: the signal's name; and of memory only where the system kills for it.

    Example:
        >>> how_it_died(-9), how_it_died(3)
        ('SIGKILL, as the system does where memory is short; fewer --jobs need less', 'exit code 3')
    """
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    short = ", as the system does where memory is short; fewer --jobs need less"
    return name + short if name == "SIGKILL" else name


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(seconds / 60, 0):.0f} min"
