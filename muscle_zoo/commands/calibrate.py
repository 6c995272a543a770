"""`calibrate`: checkpoints that were exported without a temperature get one, without being trained again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ExitCode
from .arguments import add_source_arguments, source_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `calibrate`."""
    parser.add_argument("targets", nargs="+", metavar="NAME", help="checkpoints of hub_cards/, or run folders")
    parser.add_argument("--out", type=Path, help="hub_cards folder for cards and rows (default: they replace the old)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrates one after the other, and says what it changed."""
    from ..sessions.calibrate import calibrate_checkpoint

    for target in args.targets:
        row, lines = calibrate_checkpoint(target, args.out, source_of(args), args.cpu)
        print(
            f"{row.name}, seed {row.seed}: temperature {row.temperature:g}, neg. log-likelihood "
            f"{row.nll_uncalibrated:.3f} -> {row.nll:.3f} nats, calibration error {100 * row.ece_uncalibrated:.2f} -> "
            f"{100 * row.ece:.2f} %, top-1 {100 * row.top1_ema:.2f} % as before"
        )
        print("\n".join(lines), flush=True)
    return ExitCode.DONE
