"""`download`: checkpoints into the cache of huggingface_hub, checked."""

from __future__ import annotations

import argparse
import sys

from ..checkpoints import registry, weights
from ..errors import ExitCode, InputError, MuscleZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `download`."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a checkpoint, NAME@revision or hf-hub:REPO[@revision] (or --all)"
    )
    parser.add_argument("--all", action="store_true", help="every checkpoint whose weights can be had")
    parser.add_argument("--source", choices=("hub",), help="from the Hugging Face Hub although it is on disk")
    parser.add_argument("--force", action="store_true", help="again, although it is in the cache")


def run(args: argparse.Namespace) -> int:
    """Fetches one after the other, goes on after a failure, and says where each is."""
    if bool(args.names) == args.all:
        raise InputError("NAME: give some checkpoints, or --all, and not both")
    failed = 0
    names = args.names or registry.checkpoint_names(args.source)
    if not names:
        raise InputError("--all: no checkpoint is on the Hugging Face Hub (registry.json names no repo); give NAME")
    for name in names:
        try:
            print(f"{name}: {weights.fetch(name, args.source, args.force).folder}", flush=True)
        except MuscleZooError as error:
            if len(args.names) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr, flush=True)
    return ExitCode.FAILED if failed else ExitCode.DONE
