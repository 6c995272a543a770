"""A worker of a study that dies, as the system kills one when memory is short; its imports are few, so it dies soon."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_start_method
from multiprocessing.connection import Connection
from pathlib import Path

LIVES = "MUSCLE_ZOO_TEST_LIVES"  # names a file with a line for each worker that was started


def work(connection: Connection) -> None:
    """The first worker dies before it reads its job, the second one after, and the third is a real one."""
    lives = Path(os.environ[LIVES])
    with lives.open("a") as file:
        file.write("worker\n")
    number = len(lives.read_text().splitlines())
    if number == 2:
        connection.recv_bytes()
    if number < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    from muscle_zoo.sessions import study  # takes seconds

    study._work(connection)
    with lives.open("a") as file:
        file.write(f"{get_start_method()}\n")
