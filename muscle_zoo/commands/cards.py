"""`cards`: cards, and the tables and figures of pages, rendered from the ledger."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints import registry
from ..errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `cards`."""
    parser.add_argument(
        "action", choices=("render", "check"), help="write cards, tables and figures, or say whether they drifted"
    )
    parser.add_argument("--root", type=Path, help="the checkout (default: the one muscle_zoo runs from)")


def run(args: argparse.Namespace) -> int:
    """Renders cards and pages from the ledger, or checks that they are up to date."""
    from ..publishing.render import find_drift

    drift = find_drift(args.root or registry.checkout())
    if args.action == "render":
        drift.mend()
    for path in drift.paths:
        print(f"{'rendered' if args.action == 'render' else 'drifted'}: {path}")
    if args.action == "check" and drift.paths:
        print("run `muscle-zoo cards render` to update them")
        return ExitCode.FAILED
    if not drift.paths:
        print("everything matches the ledger")
    return ExitCode.DONE
