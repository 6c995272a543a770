"""Which of the processes that a launcher started this one is, and on which device it works; imports nothing slow."""

from __future__ import annotations

import os

import torch


def is_main_process() -> bool:
    """Whether this process is the first of those a launcher started; true where there is no launcher."""
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Whether a launcher started this process, as one of several or alone."""
    return "RANK" in os.environ


def device_for(cpu: bool = False) -> torch.device:
    """The accelerator that torch sees, if there is one and it is not refused; else the CPU.

    Args:
        cpu: Stay on the CPU.
    """
    accelerator = None if cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
