"""How a run is carried out, and how it ended: nothing here changes what a recipe computes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from ..data import DataConfig
from ..errors import InputError, suggest
from .evaluate import Metrics
from .run_folder import RunFolder

PRECISIONS = ("no", "bf16", "fp16")
COMPILE = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class RunOptions:
    """What decides how a run is carried out, not what it computes.

    Attributes:
        mixed_precision: ``no``, ``bf16`` or ``fp16``; None leaves it to Accelerate's configuration, which is ``no``
            unless a launcher or a config file says otherwise.
        tracker: One of Accelerate's trackers, or ``none``. A JSONL log is always written.
        time_limit: Seconds after which the run saves its state and stops; None for no limit.
        save_every: Steps between two saved states.
        cpu: Stay on the CPU.
        fresh: Start over: the run folder that is there is renamed first, see :meth:`RunFolder.set_aside`.
        progress: Say on stderr what is done, how long it takes and how far it is; on a terminal with a bar.
        data: Where the data are, and how they are read.
        compile: torch.compile's mode, one of :data:`COMPILE`; ``reduce-overhead`` uses CUDA graphs. The same
            experiment, but not the same bits.

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
    data: DataConfig | None = None
    compile: str = "none"

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise InputError(f"--save-every {self.save_every} is out of range; give 1 or more")
        if self.mixed_precision not in (None, *PRECISIONS):
            problem = f"--mixed-precision {self.mixed_precision} is unknown"
            raise InputError(f"{problem}; {suggest(str(self.mixed_precision), PRECISIONS)}")
        if self.compile not in COMPILE:
            raise InputError(f"--compile {self.compile} is unknown; {suggest(self.compile, COMPILE)}")
        available = [tracker.value for tracker in get_available_trackers()]
        if self.tracker not in ("none", *available):
            known = [tracker.value for tracker in LoggerType if tracker != LoggerType.ALL]
            remedy = "install its package" if self.tracker in known else suggest(self.tracker, known)
            raise InputError(f"--tracker {self.tracker} is not available; {remedy}")

    def accelerator(self, folder: RunFolder, accumulate: int = 1) -> Accelerator:
        """The Accelerator these options ask for, for steps of so many parts."""
        process_state(self.cpu)
        trackers = None if self.tracker == "none" else self.tracker
        accelerator = Accelerator(
            mixed_precision=self.mixed_precision,
            gradient_accumulation_steps=accumulate,
            cpu=self.cpu,
            log_with=trackers,
            project_dir=str(folder.path),
        )
        if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
            raise InputError("--mixed-precision fp16 does not run on a CPU; give bf16 or no")
        return accelerator


def process_state(cpu: bool = False) -> PartialState:
    """Accelerate's state of the processes; the first call has them find each other.

    The timeout is long because the first process evaluates the export alone, while the others wait for it.
    """
    return PartialState(cpu=cpu, timeout=timedelta(hours=12))


@dataclass(frozen=True)
class TrainResult:
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
        ema: Metrics of the averaged weights.
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
    ema: Metrics | None = None
    median20: float | None = None
