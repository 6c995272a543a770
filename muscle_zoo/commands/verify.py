"""`verify`: whether checkpoints are what their cards say."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..checkpoints import registry, weights
from ..errors import ExitCode, InputError
from ..results.ledger import read_ledger
from .arguments import add_source_arguments, source_of

if TYPE_CHECKING:
    from ..publishing.verify import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `verify`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="checkpoints, or hf-hub:REPO (or --all)")
    parser.add_argument("--all", action="store_true", help="every checkpoint whose weights can be had")
    parser.add_argument("--accuracy", action="store_true", help="evaluate them too, on their data set")
    parser.add_argument("--source", choices=("hub",), help="check what is on the Hugging Face Hub, not on disk")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--cpu", action="store_true", help="evaluate on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Checks one after the other, and says what became of each; 1 if anything is not as promised."""
    from ..publishing.verify import verify
    from ..sessions.evaluate import check_accuracy

    if bool(args.names) == args.all:
        raise InputError("NAME: give some checkpoints, or --all, and not both")
    rows = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
    names = args.names or registry.checkpoint_names(args.source)
    if not names:
        raise InputError("--all: no checkpoint is on the Hugging Face Hub (registry.json names no repo); give NAME")
    for name in names:
        weights.locate(name, args.source)  # a name that leads nowhere is said before anything is checked
    checks: dict[str, list[Check]] = {}
    for name in names:
        checks[name] = verify(name, rows, args.source)
        if args.accuracy and all(check.passed for check in checks[name]):
            checks[name].append(check_accuracy(name, source_of(args), args.source, args.cpu))
        if not args.json:
            print(render(name, checks[name]), flush=True)
    if args.json:
        print(json.dumps({name: [asdict(check) for check in checks[name]] for name in names}, indent=2))
    failed = [name for name in checks if not all(check.passed for check in checks[name])]
    if len(checks) > 1 and not args.json:
        print(f"{len(checks) - len(failed)} of {len(checks)} are what their cards say")
    return ExitCode.FAILED if failed else ExitCode.DONE


def render(name: str, checks: list[Check]) -> str:
    """One line for what is right, one for each thing that is wrong."""
    good = [
        check.what if check.what not in ("probe", "accuracy") else f"{check.what} ({check.text})" for check in checks
    ]
    wrong = [check for check in checks if not check.passed]
    if not wrong:
        return f"{name}: {', '.join(good)}"
    verdict = {False: "WRONG", None: "NOT CHECKED"}
    return "\n".join(f"{name}: {check.what} {verdict[check.passed]}: {check.text}" for check in wrong)
