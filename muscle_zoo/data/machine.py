"""What the machine has for images: memory to hold them, processors to read them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

# A container's limit, what it has used, and what of that are files that the kernel can drop: cgroups, version 2 and 1.
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: of the machine's memory, or less where a container has a limit of its own."""
    free = psutil.virtual_memory().available
    for limit, used, droppable in _CGROUPS:
        try:
            text = (cgroup / limit).with_name("memory.stat").read_text()
            dropped = int(dict(line.split() for line in text.splitlines())[droppable])
            free = min(free, int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + dropped)
        except (OSError, ValueError, KeyError):  # no such group, or it has no limit
            continue
    return max(free, 0)


def usable_cpus() -> int:
    """Processors that this process may run on: `taskset` or a cluster may have given it fewer than the machine has."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS, nor on Windows
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1
