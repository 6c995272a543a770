"""Arguments that several commands take, and what they mean."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.target import checkpoint_name
from ..data import DataConfig
from ..data.addresses import local_pictures
from ..data.machine import usable_cpus
from ..errors import InputError

if TYPE_CHECKING:
    from ..engine.options import RunOptions


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares how runs are carried out."""
    parser.add_argument("--out", type=Path, help="run folder (default: below runs/)")
    add_device_arguments(parser)
    parser.add_argument("--tracker", default="none", help="one of Accelerate's: tensorboard, trackio, wandb, ...")
    parser.add_argument(
        "--time-limit", type=time_limit, metavar="9m", help="save and stop with exit code 75 after this time"
    )
    parser.add_argument("--save-every", type=int, default=500, metavar="STEPS", help="steps between saved states (500)")
    add_source_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where and in which precision the network runs."""
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), help="default: no")
    parser.add_argument("--compile", default="none", metavar="MODE", help="torch.compile's mode: default, ...")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where data are found and how they are read."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where data sets are (default: $MUSCLE_ZOO_DATA, or data/); your folder or CSV, hf:ORG/NAME, wds:SHARDS",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures (default: up to 4)")
    parser.add_argument("--stream", action="store_true", help="read pictures when needed, even if they fit into memory")
    parser.add_argument(
        "--strict", action="store_true", help="refuse pictures that cannot be read or contradict each other"
    )


def source_of(args: argparse.Namespace) -> DataConfig:
    """What :func:`add_source_arguments` declared.

    Raises:
        InputError: The folder of ``--data`` is not there, or the number of workers is negative.
    """
    root = None if args.data is None else local_pictures(args.data)
    if root is not None and not root.exists():
        raise InputError(
            f"--data {args.data} does not exist; give your folder or CSV of pictures, or the folder that data sets are "
            "in (make it for those that are to be downloaded)"
        )
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = min(4, usable_cpus() // processes) if args.workers is None else args.workers
    if workers < 0:
        raise InputError(f"--workers {workers} is out of range; give 0 or more")
    return DataConfig(root, True if args.stream else None, workers, progress=True, strict=args.strict)


def run_options(args: argparse.Namespace, progress: bool = True) -> RunOptions:
    """What :func:`add_run_arguments` declared, and ``--fresh`` where a command has it.

    Raises:
        InputError: A value is out of range, or the tracker is not available.
    """
    from ..engine.options import RunOptions  # slow to import

    return RunOptions(
        mixed_precision=args.mixed_precision,
        tracker=args.tracker,
        time_limit=args.time_limit,
        save_every=args.save_every,
        cpu=args.cpu,
        fresh=getattr(args, "fresh", False),
        progress=progress,
        data=source_of(args),
        compile=args.compile,
    )


def parse_overrides(words: list[str]) -> dict[str, str]:
    """Splits ``key=value`` words.

    Raises:
        InputError: A word has no ``=``, a key comes twice, or ``init`` or ``teacher`` is no checkpoint.
    """
    overrides: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"override {word!r} is not key=value; write for example seed=1")
        if key in overrides:
            raise InputError(f"override {key!r} is given twice; keep one")
        overrides[key] = value
    for key, what in (("init", "weights to start from"), ("teacher", "a network to learn from")):
        if key in overrides:
            if not overrides[key]:
                raise InputError(f"override {key}= is empty; name {what}, or leave it out")
            try:
                overrides[key] = checkpoint_name(overrides[key])  # a run folder will do
            except InputError as error:
                raise type(error)(
                    f"{key}={error}" if str(error).startswith(overrides[key]) else f"{key}: {error}"
                ) from None
    return overrides


def time_limit(text: str) -> float:
    """Reads ``90``, ``90s``, ``9m`` or ``1.5h`` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 90s, 9m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
