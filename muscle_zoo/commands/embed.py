"""`embed`: embeddings of pictures, with names and labels."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from ..engine.processes import is_main_process
from ..errors import ExitCode, InputError, Notice
from .arguments import add_source_arguments, parse_overrides, source_of
from .terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `embed`."""
    parser.add_argument("name", help="a name of `list` or of timm's, a run folder, local-dir:PATH or hf-hub:REPO")
    parser.add_argument("overrides", nargs="*", metavar="image_size=N", help="the same as --size N")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors or .npy file")
    parser.add_argument("--dataset", default="folder", help="a data set instead of your pictures: digits, ...")
    parser.add_argument("--size", type=int, default=0, metavar="N", help="side in pixels (default: the network's own)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embeds and writes."""
    from ..sessions.embed import check_suffix, embed_checkpoint

    check_suffix(args.out)
    found = embed_checkpoint(args.name, source_of(args), args.dataset, _size(args), args.cpu)
    if is_main_process():
        if args.out.exists():
            warnings.warn(f"{args.out} was there before, and is replaced", Notice, stacklevel=2)
        found.save(args.out)
        rows, width = found.embeddings.shape
        say(f"{args.out}: {rows:,} embeddings of {width:,} numbers, {int((found.labels >= 0).sum()):,} with a label")
        if args.out.suffix == ".npy":
            say(f"{args.out.with_suffix('.json')}: their names and labels, in the same order")
    return ExitCode.DONE


def _size(args: argparse.Namespace) -> int:
    """The side in pixels, said as an option or in the way of a recipe."""
    overrides = parse_overrides(args.overrides)
    text = overrides.pop("image_size", str(args.size))
    if overrides:
        raise InputError(f"override {next(iter(overrides))!r}: embed takes image_size=N alone")
    if not text.isdecimal():
        raise InputError(f"image_size={text} is no number of pixels; give 0 for the network's own, or more")
    return int(text)
