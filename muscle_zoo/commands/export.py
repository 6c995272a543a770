"""`export`: finished runs into a ledger, the median seed's into hub_cards/; or a checkpoint as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints import registry
from ..errors import ExitCode, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `export`."""
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="RUN",
        help="finished run folders, all seeds of a recipe together",
    )
    parser.add_argument("--to", type=Path, help="hub_cards folder (default: the checkout's)")
    parser.add_argument("--card", action="store_true", help="also make the median seed's run the published checkpoint")
    parser.add_argument(
        "--space",
        type=Path,
        metavar="DIR",
        help="instead: one checkpoint with a page for it, as a Space of the Hub",
    )
    parser.add_argument(
        "--onnx",
        nargs="?",
        const="",
        metavar="FILE",
        help="instead: write one checkpoint (its name, run folder, local-dir: or hf-hub:) as ONNX (NAME.onnx)",
    )


def run(args: argparse.Namespace) -> int:
    """Adds runs to their ledger and, with --card, to hub_cards/; or writes an ONNX file."""
    if args.space is not None:
        return _space(args)
    if args.onnx is not None:
        return _onnx(args)
    from ..publishing.release import read_finished_backbone, read_finished_run, release, release_backbones

    to = args.to or registry.checkout() / "hub_cards"
    paths = [Path(target) for target in args.targets]
    backbones = [backbone for path in paths if args.card and (backbone := read_finished_backbone(path)) is not None]
    if backbones and len(backbones) < len(paths):  # or one kind would be written before the other is refused
        raise InputError(f"{backbones[0].path} has no classifier; give runs that have one in a command of their own")
    lines = release_backbones(backbones, to) if backbones else release([*map(read_finished_run, paths)], to, args.card)
    for line in lines:
        print(line)
    return ExitCode.DONE


def _space(args: argparse.Namespace) -> int:
    from ..publishing.space import export_space

    if len(args.targets) != 1 or args.card or args.to is not None or args.onnx is not None:
        raise InputError("--space takes one checkpoint and no other option; write export RUN --space DIR")
    print("\n".join(export_space(args.targets[0], args.space)))
    return ExitCode.DONE


def _onnx(args: argparse.Namespace) -> int:
    from ..publishing.onnx import export_onnx

    if len(args.targets) != 1 or args.card or args.to is not None:
        raise InputError("--onnx takes one checkpoint, and neither --card nor --to; write export NAME --onnx FILE.onnx")
    file = Path(args.onnx) if args.onnx else None
    if file is not None and (file.suffix.lower() != ".onnx" or file.is_dir()):
        raise InputError(f"--onnx {file}: write the name of a file that ends in .onnx")
    written, difference = export_onnx(args.targets[0], file)
    size = written.stat().st_size / 2**20
    print(f"{written}: {size:.1f} MiB, its logits differ from torch's by {difference:.1e} at most")
    return ExitCode.DONE
