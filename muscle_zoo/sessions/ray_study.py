"""A study's runs on a Ray cluster, each with a CPU and a share of a GPU; the package ray is imported when needed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..engine.options import RunOptions
from ..engine.stop import StopSignal
from ..errors import InputError, one_line
from ..recipes import Recipe
from .study import POLL_SECONDS, Job, Outcomes, StudyResult, attempt

_REACH_SECONDS = 5.0  # Ray itself tries for a minute and more, and then ends the process


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how much of it each run gets.

    Attributes:
        address: HOST:PORT of its head, or ``auto``: the one that this machine belongs to.
        gpus: The share of a GPU, 0 to 1; None for a whole one where the cluster has GPUs.

    Raises:
        InputError: A value is none of these.

    Example:
        >>> Cluster("auto", gpus=0.25)
        Cluster(address='auto', gpus=0.25)
    """

    address: str
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.address != "auto" and not (self._host and self._port.isdecimal() and "/" not in self._host):
            raise InputError(f"--ray {self.address} is no address; give HOST:PORT of the cluster's head, or auto")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise InputError(f"--gpus-per-run {self.gpus:g} is out of range; give 0 to 1")

    @property
    def _host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def _port(self) -> str:
        return self.address.rpartition(":")[2]

    def require_reachable(self) -> None:
        """Tries its port.

        Raises:
            InputError: Nothing listens there.
        """
        if self.address == "auto":
            return
        try:
            socket.create_connection((self._host, int(self._port)), _REACH_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise self.unreachable(error) from None

    def unreachable(self, why: object) -> InputError:
        """The error for a cluster that does not answer."""
        first = one_line(why).partition(". ")[0]
        remedy = "start one (ray start --head), or give the address of its head"
        return InputError(f"--ray {self.address}: no cluster can be reached ({first}); {remedy}")


def run_on_ray(todo: Sequence[Job], out: Path, options: RunOptions, cluster: Cluster) -> StudyResult:
    """Runs what is to do on a cluster, as many runs at a time as it has room for.

    Args:
        todo: The runs and their folders.
        out: The study's folder, on a disk that all machines share.
        options: How each is carried out; the time limit is that of all of them.
        cluster: Where.

    Raises:
        InputError: The package is missing, the cluster cannot be reached or has no room for a run, or a machine of it
            does not see the folder.

    Example:
        >>> run_on_ray(todo, Path("/shared/study"), RunOptions(), Cluster("auto", 0.25))  # doctest: +SKIP
    """
    began = time.monotonic()
    ray = _ray()
    with _connected(ray, cluster), _marked(out) as place:
        gpus = _share(ray, cluster, options.cpu)
        _require_shared(ray, place, _nodes_for(ray, cluster, gpus))
        if options.time_limit is not None:
            left = options.time_limit - (time.monotonic() - began)
            options = replace(options, time_limit=max(left, 1e-6))
        return _Tasks(ray, todo, options, place, gpus).run()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError('--ray needs a package: python -m pip install "muscle_zoo[ray]"') from None
    return ray


@contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connects to the cluster while it is entered; a connection that the caller made before is used, and left alone."""
    if ray.is_initialized():
        yield
        return
    cluster.require_reachable()
    own = {key: value for key, value in os.environ.items() if key.startswith("MUSCLE_ZOO_")}
    more = {"runtime_env": {"env_vars": own}} if own else {}
    with _signals_kept():
        try:
            ray.init(address=cluster.address, logging_level="WARNING", **more)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:
            raise cluster.unreachable(error) from None
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Puts back what Ray does to SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _share(ray: Any, cluster: Cluster, cpu: bool) -> float:
    """Which share of a GPU each run gets."""
    if cluster.gpus is None:
        return 0.0 if cpu or not ray.cluster_resources().get("GPU") else 1.0
    if cpu and cluster.gpus:
        raise InputError(f"--gpus-per-run {cluster.gpus:g} and --cpu contradict each other; keep one")
    return cluster.gpus


def _nodes_for(ray: Any, cluster: Cluster, gpus: float) -> dict[str, str]:
    """Names of the machines that have room for a run, by Ray's number of each."""
    nodes = {
        node["NodeID"]: node["NodeManagerHostname"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1 and node["Resources"].get("GPU", 0) >= gpus
    }
    if not nodes:
        wanted = f"a CPU and {gpus:g} of a GPU" if gpus else "a CPU"
        raise InputError(
            f"--ray {cluster.address}: no machine of the cluster has {wanted} for a run; add one, or give another "
            "--gpus-per-run (0: on CPUs)"
        )
    return nodes


@dataclass(frozen=True)
class _Place:
    """Where the study is: the working directory, and a file in the study's folder that proves that it is shared."""

    directory: Path
    mark: Path
    content: str

    def enter(self) -> str:
        """Makes the directory this process's, so that paths mean the same; returns what this machine does not see."""
        with suppress(OSError):
            os.chdir(self.directory)
            if self.mark.read_text(encoding="utf-8") == self.content:
                return ""
        return (
            f"{socket.gethostname()} does not see {self.directory} and {self.mark.parent} as this machine does; with "
            "--ray both are on a disk that all machines share, at the same path"
        )


@contextmanager
def _marked(out: Path) -> Iterator[_Place]:
    """Puts a mark into the study's folder, which is made if need be."""
    out = out.absolute()
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    content = secrets.token_hex(16)  # the same path may be a folder of each machine's own
    mark = out / f".shared-{content}"
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(content, encoding="utf-8")
    try:
        yield _Place(Path.cwd(), mark, content)
    finally:
        mark.unlink(missing_ok=True)
        for folder in new:  # wrong input leaves nothing behind
            with suppress(OSError):
                folder.rmdir()


def _require_shared(ray: Any, place: _Place, nodes: dict[str, str]) -> None:
    """Asks each machine, before the first run, whether it sees the study and has this package.

    Raises:
        InputError: One does not.
    """
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {look.options(scheduling_strategy=strategy(node, soft=False)).remote(place): node for node in nodes}
    for answer, node in asked.items():
        try:
            version, problem = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise InputError(
                f"--ray: {nodes[node]} cannot run muscle_zoo ({_last_line(error)}); install it there as it is here"
            ) from None
        if problem:
            raise InputError(f"--ray: {problem}")
        if version != __version__:
            raise InputError(f"--ray: {nodes[node]} has muscle_zoo {version}, not {__version__}; install that there")


def _look(place: _Place) -> tuple[str, str]:
    return __version__, place.enter()


def _last_line(error: Exception) -> str:
    """Of an error of Ray's, which may hold a whole traceback, what stands last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)


class _Tasks:
    """Gives all runs to the cluster, which begins each where there is room, and takes note of how they end."""

    def __init__(self, ray: Any, todo: Sequence[Job], options: RunOptions, place: _Place, gpus: float) -> None:
        self.ray, self.todo, self.place, self.gpus = ray, todo, place, gpus
        self.time_limit = options.time_limit
        # Without a limit of its own: it is cancelled, for clocks differ and it may wait for long.
        self.options = replace(options, time_limit=None, progress=False, fresh=False, cpu=options.cpu or not gpus)
        self.outcomes = Outcomes(len(todo))

    def run(self) -> StudyResult:
        """Runs all of them, or until it is told to stop."""
        told = False
        with StopSignal(self.time_limit) as stop:
            waiting = {self._begin(*job): job for job in self.todo}
            while waiting:
                if stop.requested and not told:
                    told = self.outcomes.result.stopped = True
                    for task in waiting:  # one that runs is interrupted, and saves its state at the end of its step
                        self.ray.cancel(task)
                for task in self.ray.wait(list(waiting), timeout=POLL_SECONDS)[0]:
                    self.outcomes.note(waiting.pop(task), *self._ended(task))
        return self.outcomes.result

    def _begin(self, recipe: Recipe, folder: Path) -> Any:
        # A machine that is lost ends its run like any error: the same command goes on with it.
        task = self.ray.remote(_attempt).options(num_cpus=1, num_gpus=self.gpus, max_retries=0, name=recipe.name)
        return task.remote(self.place, recipe, folder, self.options)

    def _ended(self, task: Any) -> tuple[bool, str]:
        try:
            finished, error = self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:  # before it had begun
            return False, ""
        except self.ray.exceptions.RayError as problem:
            return False, f"its process died ({_last_line(problem)}); is memory short?"
        return finished, error


def _attempt(place: _Place, recipe: Recipe, folder: Path, options: RunOptions) -> tuple[bool, str]:
    """What a worker of the cluster does: one run, until it is finished or cancelled."""
    with StopSignal(None) as stop:
        if problem := place.enter():
            return False, problem
        return (False, "") if stop.requested else attempt(recipe, folder, options)
