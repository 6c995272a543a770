"""`ledger merge`: the ledgers of several machines become one."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from ..checkpoints import registry
from ..errors import ExitCode, InputError
from ..results.ledger import combine, read_ledger, write_ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `ledger`."""
    parser.add_argument("action", choices=("merge",), help="merge: the rows of all, each run once")
    parser.add_argument(
        "ledgers", nargs="+", type=Path, metavar="FILE | DIR", help="results.csv of several machines, or studies"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (default: into the first)")


def run(args: argparse.Namespace) -> int:
    """Merges ledgers; one that contradicts another is refused, and nothing is written."""
    args.ledgers = [path / "results.csv" if path.is_dir() else path for path in args.ledgers]  # a study's folder
    out: Path = args.out or args.ledgers[0]
    if len(args.ledgers) < 2 and args.out is None:
        raise InputError(f"ledger merge {out}: give two ledgers or more")
    if missing := next((path for path in args.ledgers if not path.is_file()), None):
        raise InputError(f"{missing} is not a file; give a results.csv, or a study's folder")
    if out.exists() and out not in args.ledgers:
        raise InputError(f"--out {out} exists; give it among the ledgers to keep its rows, or give another")
    with ExitStack() as stack:
        if out.exists():  # it may be that of a checkout, into which others write as well
            stack.enter_context(registry.locked(out.parent))
        ledgers = {str(path): read_ledger(path) for path in args.ledgers}
        rows = combine(ledgers)
        write_ledger(out, rows)
    counts = ", ".join(f"{path} {len(rows)}" for path, rows in ledgers.items())
    print(f"{out}: {len(rows)} runs ({counts})")
    return ExitCode.DONE
