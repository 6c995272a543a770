"""Where a step's time goes: the parts of a piece of work, timed one after the other."""

from __future__ import annotations

import statistics
import time

import torch


def wait(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class NoTimer:
    """Times nothing: a run's step does not wait for the device between its parts."""

    def lap(self, name: str) -> None:
        """Ends a part of the work."""


class StageTimer(NoTimer):
    """Splits a piece of work into parts, one after the other.

    Args:
        device: Where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rounds: list[dict[str, float]] = []
        self._last = 0.0

    def start(self) -> None:
        """Begins a round."""
        wait(self._device)
        self._rounds.append({})
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a part of the round; parts of the same name count together."""
        wait(self._device)
        now = time.perf_counter()
        self._rounds[-1][name] = self._rounds[-1].get(name, 0.0) + now - self._last
        self._last = now

    def medians(self, skip: int = 0) -> dict[str, float]:
        """Median seconds of each part in a round, without the first rounds."""
        return {name: statistics.median(part[name] for part in self._rounds[skip:]) for name in self._rounds[0]}
