"""`publish`: cards go to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints import registry
from ..checkpoints.card import BLOCK, CONFIG_FILE, read_config
from ..checkpoints.target import require_run
from ..errors import ExitCode, InputError, MuscleZooError, one_line
from ..recipes.names import suggest_names
from ..results.ledger import Row, read_ledger
from .verify import render

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..publishing.publish import Change


_MISSING = {
    "--namespace": "which user or organization on the Hub publishes",
    "--license": "under which license the weights are published, such as apache-2.0, cc-by-4.0, cc-by-nc-4.0 or other",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `publish`."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="checkpoints of hub_cards/ (or --all); or your own run folder"
    )
    parser.add_argument("--all", action="store_true", help="every checkpoint of hub_cards/")
    parser.add_argument("--namespace", default="", metavar="ORG", help="user or organization on the Hub; needed")
    own = parser.add_argument_group("your own run")
    own.add_argument("--license", default="", help="of its weights, as the Hub spells it: apache-2.0, cc-by-4.0, ...")
    own.add_argument("--name", default="", help="of the repo (default: the run folder's)")
    own.add_argument("--base-model", default="", metavar="ORG/NAME", help="what training began with (default: of init)")
    own.add_argument("--with-names", action="store_true", help="publish the names of the labeled pictures, too")
    parser.add_argument("--private", action="store_true", help="make new repos private")
    parser.add_argument("--tag", default="", help="give the commit this tag, such as v1")
    parser.add_argument("--collection", default="", metavar="TITLE", help="put them into this Collection of ORG")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    parser.add_argument("--verify", action="store_true", help="check each before, and again as it is downloaded")
    parser.add_argument(
        "--pin", action="store_true", help="write repo, revision and sha256 into registry.json: what users then load"
    )


def run(args: argparse.Namespace) -> int:
    """Publishes one after the other, goes on after a failure, and says what became of each."""
    from huggingface_hub import HfApi

    _require_that_go_together(args)
    cards = [_card_of_run(args)] if _is_run(args) else [_card(name) for name in args.names or _all_names()]
    if not cards:
        raise InputError(f"--all: {registry.card_folders()[0]} holds no checkpoint; give NAME, or export one")
    pins = registry.checkout() / "hub_cards" / registry.REGISTRY_FILE if args.pin else None
    if pins is not None:
        registry.read_pins(pins)  # a damaged one is said before anything is published
    api = HfApi(library_name="muscle_zoo")
    rows = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
    published: list[Change] = []
    failed = 0
    for card in cards:
        try:
            change = _publish(card, api, rows, pins, args)
            published += [change] if change is not None else []
            done = change is not None
        except (MuscleZooError, OSError) as error:  # the latter: a file of the card cannot be read
            done = False
            print(f"{card.name}: failed", flush=True)
            print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        failed += not done
    if len(cards) > 1:
        what = "compared" if args.dry_run else f"published{' and verified' if args.verify else ''}"
        print(f"{len(cards) - failed} of {len(cards)} {what}")
    if args.collection and published:
        from ..publishing.publish import add_to_collection

        url = add_to_collection(published, args.collection, api, args.private)
        print(f"{url}: {', '.join(change.repo for change in published)}")
    return ExitCode.FAILED if failed else ExitCode.DONE


def _publish(card: Path, api: HfApi, rows: Sequence[Row], pins: Path | None, args: argparse.Namespace) -> Change | None:
    """Publishes a card, and what follows from it; None where not all of it was done.

    A tag and a pin are for ever, so they come after everything that is looked at.
    """
    from ..publishing.publish import give_tag

    if args.verify and not _is_as_promised(card.name, f"local-dir:{card}", rows):
        print(f"{card.name}: not published; mend {card} first (`muscle-zoo cards render`, or export it again)")
        return None
    change = _one(card, f"{args.namespace}/{card.name}", api, args)
    if args.verify and not _is_as_promised(card.name, f"hf-hub:{change.repo}@{change.revision}", rows, shown=True):
        return None
    if args.tag and not args.dry_run:
        give_tag(change, api, args.tag)
        print(f"{card.name}: tag {args.tag}", flush=True)
    if pins is not None:
        with registry.locked(pins.parent):
            registry.register(pins, card.name, change.sha256, change.repo, change.revision)
        print(f"{card.name}: pinned in {pins}", flush=True)
    return change


def _require_that_go_together(args: argparse.Namespace) -> None:
    if bool(args.names) == args.all:
        raise InputError("NAME: give some checkpoints, or --all, and not both")
    if args.pin and (args.create_pr or args.dry_run):
        raise InputError("--pin needs a commit; leave out --create-pr and --dry-run")
    if args.collection and (args.create_pr or args.dry_run):
        raise InputError("--collection is of what is published; leave out --create-pr and --dry-run")
    if args.verify and args.dry_run:
        raise InputError("--verify looks at what was published; leave out --dry-run")


def _is_run(args: argparse.Namespace) -> bool:
    """Whether one's own run is published.

    Raises:
        InputError: An option does not go with what is published.
    """
    runs = [name for name in args.names if _is_run_folder(Path(name))]
    own = {"--license": args.license, "--name": args.name, "--base-model": args.base_model}
    given = [flag for flag, value in (*own.items(), ("--with-names", args.with_names)) if value]
    if not runs:
        if gone := [name for name in args.names if given and not Path(name).exists() and not registry.find_card(name)]:
            require_run(Path(gone[0]))
        if given:
            raise InputError(f"{given[0]} goes with your own run; give its folder")
        _require(args, "--namespace")
        return False
    if len(args.names) > 1:
        raise InputError(f"{runs[0]} is a run folder; give it alone")
    if args.verify or args.pin:
        raise InputError(f"{'--verify' if args.verify else '--pin'} is for checkpoints of hub_cards/; leave it out")
    require_run(Path(runs[0]))
    _require(args, "--namespace", "--license")
    return True


def _is_run_folder(folder: Path) -> bool:
    """Whether it may be meant as a run's: it is one, or a folder that is no card's, as of a run that was stopped."""
    is_card = (folder / CONFIG_FILE).is_file() or registry.find_card(str(folder)) is not None
    return (folder / "status.json").is_file() or (folder.is_dir() and not is_card)


def _require(args: argparse.Namespace, *flags: str) -> None:
    """Names all that is missing at once."""
    if missing := [flag for flag in flags if not getattr(args, flag.removeprefix("--"))]:
        verb = "is" if len(missing) == 1 else "are"
        say = "; ".join(_MISSING[flag] for flag in missing)
        raise InputError(f"{' and '.join(missing)} {verb} missing: say {say}")


def _card_of_run(args: argparse.Namespace) -> Path:
    from ..auto.run_card import CardChoices, make_run_card

    choices = CardChoices(args.license, args.name, args.base_model, args.with_names, args.namespace)
    card = make_run_card(Path(args.names[0]), choices)
    names = "with the names of the labeled pictures" if args.with_names else "no names of pictures in it"
    print(f"{card}: the card, {names}", flush=True)
    return card


def _is_as_promised(name: str, where: str, rows: Sequence[Row], shown: bool = False) -> bool:
    """Checks a card, and prints what is wrong with it; what is right only if it is to be shown."""
    from ..publishing.verify import verify

    checks = verify(where, rows)
    passed = all(check.passed for check in checks)
    if shown or not passed:
        print(render(name, checks), flush=True)
    return passed


def _one(card: Path, repo: str, api: HfApi, args: argparse.Namespace) -> Change:
    from ..publishing.publish import compare, publish

    if args.dry_run:
        change = compare(card, repo, api, args.tag)
        what = f"would {'update' if change.exists else 'create'} {repo}: " if change.files else f"{repo} is up to date"
    else:
        change = publish(card, repo, api, args.private, args.tag, args.create_pr)
        what = f"{change.url} at {change.revision[:12]}: " if change.files else f"{change.url} was up to date"
    there = [name for name in change.files if (card / name).is_file()]  # all but the notebook, which is made
    sizes = [f"{name} ({(card / name).stat().st_size:,} bytes)" for name in there]
    sizes += [name for name in change.files if name not in there]
    left = f"; left alone: {', '.join(change.others)}" if change.others else ""
    print(f"{card.name}: {what}{', '.join(sizes)}{left}", flush=True)
    return change


def _card(name: str) -> Path:
    if "/" in name and (Path(name) / CONFIG_FILE).is_file():
        folder = Path(name).resolve()
        if (own := read_config(folder).get(BLOCK, {}).get("name")) != folder.name:
            raise InputError(f"{name} holds {own}; give hub_cards/{own}, which `muscle-zoo export --card RUN` makes")
        return folder
    card = registry.find_card(name)
    if card is None:
        raise InputError(f"{name!r} has no card folder; {suggest_names(name, _all_names())}")
    return card


def _all_names() -> list[str]:
    return sorted({card.name for root in registry.card_folders() for card in registry.cards_in(root)})
