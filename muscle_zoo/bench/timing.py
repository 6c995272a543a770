"""Timing: warmed up, in turn, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from ..engine.stage_timer import wait

RUNS = 7
SECONDS = 0.5  # each run takes at least so long


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
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, call in work.items():
            measured[name].append(timed(call, times[name]))
    return {name: statistics.median(values) for name, values in measured.items()}
