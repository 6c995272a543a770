"""`embed`: embeddings of pictures, with names and labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.processes import is_main_process
from ..errors import ExitCode
from .arguments import add_source_arguments, source_of
from .terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `embed`."""
    parser.add_argument("name", help="a name of `list` or of timm's, a run folder, local-dir:PATH or hf-hub:REPO")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors or .npy file")
    parser.add_argument("--dataset", default="folder", help="a data set instead of your pictures: digits, ...")
    parser.add_argument("--size", type=int, default=0, metavar="N", help="side in pixels (default: the network's own)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embeds and writes."""
    from ..sessions.embed import check_suffix, embed_checkpoint

    check_suffix(args.out)
    found = embed_checkpoint(args.name, source_of(args), args.dataset, args.size, args.cpu)
    if is_main_process():
        found.save(args.out)
        rows, width = found.embeddings.shape
        say(f"{args.out}: {rows:,} embeddings of {width:,} numbers, {int((found.labels >= 0).sum()):,} with a label")
    return ExitCode.DONE
