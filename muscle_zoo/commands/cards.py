"""`cards`: cards and README tables, rendered from the ledger."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import registry
from ..ledger import read_ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `cards`."""
    parser.add_argument(
        "action", choices=("render", "check"), help="write cards and README tables, or say whether they drifted"
    )
    parser.add_argument("--root", type=Path, help="the checkout (default: the one muscle_zoo runs from)")


def run(args: argparse.Namespace) -> int:
    """Renders cards and README from the ledger, or checks that they are up to date."""
    from ..cards import is_of, render_all, render_figures
    from ..data import dataset_info
    from ..study import draw

    root = args.root or registry.checkout()
    rows = read_ledger(root / "hub_cards" / registry.LEDGER_FILE)
    drifted = [
        (path, text)
        for path, text in render_all(root, rows, dataset_info).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in drifted:
        if args.action == "render":
            path.write_text(text, encoding="utf-8")
    old = {path: shown for path, shown in render_figures(root, rows).items() if not is_of(path, shown)}
    for path, shown in old.items():
        if args.action == "render":
            draw(shown, path)
    for path in (*(path for path, _ in drifted), *old):
        print(f"{'rendered' if args.action == 'render' else 'drifted'}: {path}")
    return 1 if (drifted or old) and args.action == "check" else 0
