"""Being told to stop: a signal or a time limit, obeyed at the end of a step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

# SIGUSR1 is what batch systems send before the time is up; Windows has none.
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class StopSignal:
    """Turns SIGTERM, SIGUSR1, the first SIGINT and a time limit into ``requested``, while it is entered.

    A second SIGINT interrupts at once. Outside the main thread only the time limit works.

    Args:
        time_limit: Seconds from now on, or None.
    """

    def __init__(self, time_limit: float | None) -> None:
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._signal: str | None = None
        self._old: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop after this step."""
        return self._signal is not None or self._late()

    @property
    def why(self) -> str:
        """The signal's name, or the time limit."""
        return self._signal or "time limit"

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is None:
            # os.write: print is not allowed in a signal handler that may interrupt a print
            os.write(2, b"\nstopping after this step (or batch of pictures), and saving; Ctrl-C again stops at once\n")
        self._signal = signal.Signals(number).name

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._old[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
