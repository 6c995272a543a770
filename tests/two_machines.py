"""What one of two machines does in tests/test_launchers.py: command after command, for imports take seconds.

Each machine has a folder of its own, HOME/a or HOME/b, as its disk. What came of the commands is written to
HOME/RANK.json: for each its exit code, and what it wrote to stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from muscle_zoo.cli import main
from muscle_zoo.engine.trainer import Trainer

RANK = os.environ.get("RANK", "0")
STOP_AT = 5


class Machine:
    """Runs commands, and keeps what came of them."""

    def __init__(self, home: Path, words: list[str], streamed: list[str]) -> None:
        self.home, self.words, self.streamed = home, words, streamed
        self.seen: dict[str, tuple[int, str]] = {}

    def train(self, out: str, *more: str, what: str = "") -> None:
        self.run(what or out, *self.words, "--save-every", "4", "--out", out, *more)

    def run(self, what: str, *words: str) -> None:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = main(["train", *words, "--cpu"])
        self.seen[what] = (int(code), errors.getvalue())
        (self.home / f"{RANK}.json").write_text(json.dumps(self.seen))


@contextlib.contextmanager
def second_process_is_told_to_stop() -> Iterator[None]:
    step = Trainer.step

    def signaled(trainer: Trainer, now: int, *args: Any, **more: Any) -> Any:
        if (RANK, now) == ("1", STOP_AT):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, now, *args, **more)

    Trainer.step = signaled
    yield
    Trainer.step = step


@contextlib.contextmanager
def other_disk(home: Path) -> Iterator[None]:
    """Each machine has the other one's disk, as if their ranks had been exchanged."""
    here = Path.cwd()
    os.chdir(home / {"a": "b", "b": "a"}[here.name])
    yield
    os.chdir(here)


def run_all(machine: Machine) -> None:
    machine.train("whole")
    machine.train("whole", what="again")
    if RANK == "0":
        shutil.copytree("whole", "damaged")
        Path("damaged", "recipe.json").write_text("[]")
    machine.train("damaged")
    words = [word for word in machine.words if not word.startswith("batch_size")]
    machine.run("uneven", *words, "batch_size=7", "--out", "uneven")
    with second_process_is_told_to_stop():
        machine.train("run", what="stopped")
    if RANK == "0":
        shutil.copy("run/status.json", "stopped.json")
    with other_disk(machine.home):
        machine.train("run", what="exchanged")
    machine.train("run")
    pictures = ["--data", str(machine.home / "pictures"), "--stream", "--workers", "1"]
    machine.run("streamed", *machine.streamed, *pictures, "--out", "streamed")


if __name__ == "__main__":
    home, words, streamed = json.loads(sys.argv[1])
    # The processes meet once: a command parts them at its end, and the next one would read addresses of before.
    part, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda: None
    run_all(Machine(Path(home), words, streamed))
    part()
