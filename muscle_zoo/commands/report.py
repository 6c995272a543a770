"""`report`: a run's report.html, written anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints.target import one_run
from ..errors import ExitCode
from .arguments import add_source_arguments, source_of
from .terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `report`."""
    parser.add_argument("run", type=Path, help="the folder of a finished run; it remembers its pictures")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Writes it into the run folder."""
    from ..auto.report import write_report

    say(f"{write_report(one_run(args.run), source_of(args), args.cpu)}: open it in a browser")
    return ExitCode.DONE
