"""`export`: finished runs into a ledger, the median seed's into hub_cards/; or a checkpoint as ONNX."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints import registry
from ..errors import InputError
from ..files import read_json
from ..recipes import get_recipe
from ..results.ledger import Row, median_run, merge, read_ledger, runs_of, write_ledger
from . import onnx


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
        "--onnx",
        nargs="?",
        const="",
        metavar="FILE",
        help="instead: write one checkpoint (its name, run folder, local-dir: or hf-hub:) as ONNX (NAME.onnx)",
    )


def run(args: argparse.Namespace) -> int:
    """Adds runs to their ledger and, with --card, publishes the median seed's weights into hub_cards/.

    Runs that were evaluated on other images than the test images go to the dev ledger.
    """
    if args.onnx is not None:
        return onnx.run(args)

    to = args.to or registry.checkout() / "hub_cards"
    found = _finished(args.targets, args.card)
    to.mkdir(parents=True, exist_ok=True)
    with registry.locked(to):  # of two exports at once one waits, or it would lose the other's rows
        _add(found, to, args.card)
    return 0


def _finished(targets: Sequence[str], named: bool) -> list[tuple[Path, Row]]:
    """The run folders and their rows; with ``named``, of named recipes only."""
    found: list[tuple[Path, Row]] = []
    for path in map(Path, targets):
        if not path.is_dir():
            raise InputError(f"{path} is not a run folder; give one that train wrote")
        status = read_json(path / "status.json")
        if status.get("status") != "finished" or "row" not in status:
            raise InputError(f"{path} is {status.get('status')}, not finished; run its train command again")
        try:
            found.append((path, Row(**status["row"])))
        except TypeError as error:
            raise InputError(f"{path / 'status.json'} has no ledger row ({error}); train again with --fresh") from None
    for path, row in found:
        if named and row.recipe_sha256 != get_recipe(row.name).sha256:
            raise InputError(
                f"{path} is not the named recipe {row.name} (other overrides or version); leave out --card"
            )
    return found


def _add(found: Sequence[tuple[Path, Row]], to: Path, card: bool) -> None:
    """Merges rows into their ledgers and, with ``card``, makes the median seeds' exports the published ones."""
    new: dict[str, list[Row]] = {registry.LEDGER_FILE: [], registry.DEV_LEDGER_FILE: []}
    for path, row in found:
        fold = read_json(path / "recipe.json")["fold"]
        new[registry.LEDGER_FILE if fold == "test" else registry.DEV_LEDGER_FILE].append(row)
    ledgers = {file: merge(read_ledger(to / file), rows) for file, rows in new.items() if rows}
    rows = ledgers.get(registry.LEDGER_FILE, [])
    if card:
        registry.read_pins(to / registry.REGISTRY_FILE)  # a damaged one is said before anything is written
    published: list[tuple[str, Row, Path]] = []
    for name, recipe_sha256 in sorted({(row.name, row.recipe_sha256) for _, row in found}) if card else ():
        chosen = median_run(runs_of(rows, name, recipe_sha256))
        path = next((path for path, row in found if row.key == chosen.key), None)
        if path is None:
            raise InputError(f"{name}: the median seed is {chosen.seed}; give its run folder too")
        published.append((name, chosen, path))
    for file, all_rows in ledgers.items():
        write_ledger(to / file, all_rows)
        print(f"{to / file}: {len(new[file])} runs added or updated, {len(all_rows)} in total")
    for name, chosen, path in published:
        _publish(path / "export", to / name)
        registry.register(to / registry.REGISTRY_FILE, name, chosen.weights_sha256)
        print(f"{to / name}: seed {chosen.seed}, {100 * chosen.top1_ema:.2f} %")


def _publish(export: Path, card: Path) -> None:
    part = card.with_name(card.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(export, part)
    shutil.rmtree(card, ignore_errors=True)
    part.rename(card)
