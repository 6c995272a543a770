"""`cards`: cards and README tables, rendered from the ledger."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints import registry
from ..checkpoints.card import read_config
from ..errors import ExitCode
from ..results.ledger import read_ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `cards`."""
    parser.add_argument(
        "action", choices=("render", "check"), help="write cards, tables and figures, or say whether they drifted"
    )
    parser.add_argument("--root", type=Path, help="the checkout (default: the one muscle_zoo runs from)")


def run(args: argparse.Namespace) -> int:
    """Renders cards and pages from the ledger, or checks that they are up to date."""
    from ..checkpoints.listing import count_parameters
    from ..publishing.model_card import render_all
    from ..results.pages import page_figures

    root = args.root or registry.checkout()
    cards = root / "hub_cards"
    rows = [row for file in (registry.LEDGER_FILE, registry.DEV_LEDGER_FILE) for row in read_ledger(cards / file)]
    parameters = {card.name: count_parameters(read_config(card), str(card)) for card in registry.cards_in(cards)}
    drifted = [
        (path, text)
        for path, text in render_all(root, rows, parameters).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in drifted:
        if args.action == "render":
            path.write_text(text, encoding="utf-8")
    stale = {path: figure for path, figure in page_figures(root, rows, parameters).items() if not figure.is_at(path)}
    for path, figure in stale.items():
        if args.action == "render":
            figure.plot(path)
    for path in (*(path for path, _ in drifted), *stale):
        print(f"{'rendered' if args.action == 'render' else 'drifted'}: {path}")
    if args.action == "check" and (drifted or stale):
        print("run `muscle-zoo cards render` to update them")
        return ExitCode.FAILED
    if not drifted and not stale:
        print("everything matches the ledger")
    return ExitCode.DONE
