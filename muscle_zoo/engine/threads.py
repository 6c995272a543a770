"""How many CPU threads to use: measured, for beside another busy process two were forty times slower than one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def faster_threads(work: Callable[[], object], repeats: int = 3) -> tuple[int, float]:
    """Whether some work is done faster by one thread or by as many as torch has.

    The best of a few repeats counts: what another process takes away by chance is not the work's own time. All threads
    must be faster by a tenth, for what they would win otherwise is less than what they cost beside a busy process.

    Args:
        work: A small piece of it, done once before the clock runs.
        repeats: How often it is timed with either number.

    Returns:
        The number of threads, and the seconds that the work took with it.

    Example:
        >>> threads, seconds = faster_threads(lambda: torch.ones(4) + 1)
        >>> 1 <= threads <= torch.get_num_threads()
        True
    """
    work()
    every = torch.get_num_threads()
    seconds = {}
    for threads in sorted({1, every}):
        with cpu_threads(threads):
            seconds[threads] = min(_seconds(work) for _ in range(repeats))
    best = every if seconds[every] < 0.9 * seconds[1] else 1
    return best, seconds[best]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """So many threads while it is entered."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
