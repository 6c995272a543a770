"""`list`, `info`, `export` and `cards`: what there is, and how a run becomes a part of it."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from .. import registry
from ..errors import InputError
from ..factory import list_models, model_info
from ..ledger import Row, median_run, merge, read_ledger, runs_of, write_ledger
from ..recipes import get_recipe


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `list`."""
    parser.add_argument("filter", nargs="?", default="*", help="wildcard, such as '*digits*'")
    parser.add_argument("--pretrained", action="store_true", help="only those with weights")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_list(args: argparse.Namespace) -> int:
    """Prints the names of the zoo."""
    rows = [asdict(model_info(name)) for name in list_models(args.filter, args.pretrained)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(row["name"]) for row in rows), default=4)
    print(f"{'name':<{width}}  labels  weights  top-1")
    for row in rows:
        top1 = f"{100 * row['top1']:.2f} %" if row["top1"] is not None else ""
        print(f"{row['name']:<{width}}  {row['labels']:>6}  {'yes' if row['pretrained'] else 'no':<7}  {top1}".rstrip())
    return 0


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `info`."""
    parser.add_argument("name", help="a name of `list`")


def run_info(args: argparse.Namespace) -> int:
    """Prints what is known of a model, and its recipe, as JSON."""
    card = registry.find_card(args.name)
    recipe = registry.read_config(card)[registry.BLOCK]["recipe"] if card else get_recipe(args.name).to_dict()
    print(json.dumps({**asdict(model_info(args.name)), "recipe": recipe}, indent=2))
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `export`."""
    parser.add_argument("runs", nargs="+", type=Path, help="finished run folders, all seeds of a recipe together")
    parser.add_argument("--to", type=Path, help="hub_cards folder (default: the checkout's)")
    parser.add_argument("--card", action="store_true", help="also make the median seed's run the published checkpoint")


def run_export(args: argparse.Namespace) -> int:
    """Adds runs to the ledger and, with --card, publishes the median seed's weights into hub_cards/."""
    from ..engine.track import read_json

    to = args.to or checkout() / "hub_cards"
    found: list[tuple[Path, Row]] = []
    for path in args.runs:
        if not path.is_dir():
            raise InputError(f"{path} is no run folder; give one that train wrote")
        status = read_json(path / "status.json")
        if status.get("status") != "finished" or "row" not in status:
            raise InputError(f"{path} is {status.get('status')}, not finished; run its train command again")
        try:
            found.append((path, Row(**status["row"])))
        except TypeError as error:
            raise InputError(f"{path / 'status.json'} has no ledger row ({error}); train again with --fresh") from None
    if args.card:
        for path, row in found:
            if row.recipe_sha256 != get_recipe(row.name).sha256:
                raise InputError(
                    f"{path} is not the named recipe {row.name} (other overrides or version); leave out --card"
                )
    new = [row for _, row in found]
    rows = merge(read_ledger(to / registry.LEDGER_FILE), new)
    published: list[tuple[str, Row, Path]] = []
    for name, recipe_sha256 in sorted({(row.name, row.recipe_sha256) for row in new}) if args.card else ():
        chosen = median_run(runs_of(rows, name, recipe_sha256))
        path = next((path for path, row in found if row.key == chosen.key), None)
        if path is None:
            raise InputError(f"{name}: the median seed is {chosen.seed}; give its run folder too")
        published.append((name, chosen, path))
    to.mkdir(parents=True, exist_ok=True)
    write_ledger(to / registry.LEDGER_FILE, rows)
    print(f"{to / registry.LEDGER_FILE}: {len(found)} runs added or renewed, {len(rows)} in all")
    for name, chosen, path in published:
        _publish(path / "export", to / name)
        register(to / registry.REGISTRY_FILE, name, chosen.weights_sha256)
        print(f"{to / name}: seed {chosen.seed}, {100 * chosen.top1_ema:.2f} %")
    return 0


def checkout() -> Path:
    """The checkout this package runs from.

    Raises:
        InputError: It is an installed package.
    """
    root = registry.shipped_cards().parent
    if not (root / "pyproject.toml").is_file():
        raise InputError("muscle_zoo does not run from a checkout; say where the checkout is (--to, --root)")
    return root


def _publish(export: Path, card: Path) -> None:
    part = card.with_name(card.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(export, part)
    shutil.rmtree(card, ignore_errors=True)
    part.rename(card)


def register(path: Path, name: str, sha256: str, repo: str | None = None, revision: str | None = None) -> None:
    """Writes a checkpoint into registry.json; without repo and revision it is not on the Hub."""
    from ..engine.track import read_json, write_json

    table = read_json(path) if path.is_file() else {"checkpoints": {}}
    table["checkpoints"][name] = {"repo": repo, "revision": revision, "sha256": sha256}
    table["checkpoints"] = dict(sorted(table["checkpoints"].items()))
    write_json(path, table)


def add_cards_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `cards`."""
    parser.add_argument(
        "action", choices=("render", "check"), help="write cards and README tables, or say whether they drifted"
    )
    parser.add_argument("--root", type=Path, help="the checkout (default: the one muscle_zoo runs from)")


def run_cards(args: argparse.Namespace) -> int:
    """Renders cards and README from the ledger, or checks that they are up to date."""
    from ..cards import is_of, render_all, render_figures
    from ..data import dataset_info
    from ..study import draw

    root = args.root or checkout()
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
