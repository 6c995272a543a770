"""Timing: warmed up, in turn, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

RUNS = 7
SECONDS = 0.5  # each run takes at least so long


def wait(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    work: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float | None = None,
    runs: int | None = None,
) -> dict[str, float]:
    """Median seconds that one call of each takes, after a warm-up.

    They run in turn, so that what disturbs one disturbs the others too.

    Args:
        work: What to time, by name.
        device: Where it runs.
        seconds: One run calls a thing again until so much time has passed, about; :data:`SECONDS` by default.
        runs: How many there are; :data:`RUNS` by default.

    Returns:
        Seconds of a call, by name.
    """
    seconds, runs = SECONDS if seconds is None else seconds, RUNS if runs is None else runs

    def timed(call: Callable[[], object], times: int) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(times):
            call()
        wait(device)
        return (time.perf_counter() - began) / times

    times = {}
    for name, call in work.items():
        timed(call, 2)
        times[name] = max(1, int(seconds / max(timed(call, 1), 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, call in work.items():
            found[name].append(timed(call, times[name]))
    return {name: statistics.median(values) for name, values in found.items()}


class StageTimer:
    """Splits a piece of work into parts, one after the other.

    Args:
        device: Where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, list[float]] = {}
        self._last = 0.0

    def start(self) -> None:
        """Begins a round."""
        wait(self._device)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a part of the round."""
        wait(self._device)
        now = time.perf_counter()
        self._seconds.setdefault(name, []).append(now - self._last)
        self._last = now

    def medians(self, skip: int = 0) -> dict[str, float]:
        """Median seconds of each part, without the first rounds."""
        return {name: statistics.median(values[skip:]) for name, values in self._seconds.items()}
