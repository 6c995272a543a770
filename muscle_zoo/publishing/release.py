"""Finished runs into the ledger; the median seed of a recipe into hub_cards/, as its published checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import registry
from ..checkpoints.card import BLOCK
from ..checkpoints.target import one_run, require_run
from ..checkpoints.weights import from_folder
from ..errors import START_OVER, InputError
from ..files import read_json
from ..recipes import Recipe, get_recipe
from ..results.ledger import Row, merge, read_ledger, row_from, runs_of, write_ledger


@dataclass(frozen=True)
class FinishedRun:
    """A run folder and its ledger row."""

    path: Path
    row: Row


def read_finished_run(path: Path) -> FinishedRun:
    """Reads the row of a finished run.

    Raises:
        InputError: The folder holds no run, or one that is not finished, or one of an older edition.
    """
    path = one_run(path)
    require_run(path)
    status = read_json(path / "status.json")
    if "knn" in status:
        raise InputError(
            f"{path} has no classifier, and ledgers are of classifiers; give runs that began with it, or --card to "
            "publish its network"
        )
    if status.get("status") != "finished" or "row" not in status:
        raise InputError(f"{path} is {status.get('status')}, not finished; run its train command again")
    try:
        return FinishedRun(path, row_from(status["row"]))
    except TypeError as error:
        raise InputError(f"{path / 'status.json'} has no ledger row ({error}); {START_OVER}") from None


@dataclass(frozen=True)
class FinishedBackbone:
    """A run folder without a classifier, its recipe, and how often its features' nearest neighbors are right."""

    path: Path
    recipe: Recipe
    knn: float


def read_finished_backbone(path: Path) -> FinishedBackbone | None:
    """Reads a finished run that has no classifier; None where the folder is none of these.

    Raises:
        InputError: Its status.json or recipe.json cannot be read.
    """
    if not (path / "status.json").is_file() or "knn" not in (status := read_json(path / "status.json")):
        return None
    return FinishedBackbone(path, Recipe.from_dict(read_json(path / "recipe.json")), float(status["knn"]))


def release_backbones(runs: Sequence[FinishedBackbone], to: Path) -> list[str]:
    """Makes the median seed's export the published checkpoint, of runs without a classifier. No ledger has them.

    Args:
        runs: All seeds of a recipe together, or of several recipes; the median is that of their nearest neighbors.
        to: hub_cards/.

    Returns:
        What was done, one line each.

    Raises:
        InputError: A run is not the named recipe's, or registry.json is damaged; nothing was written.
    """
    by_name: dict[str, list[FinishedBackbone]] = {}
    for run in runs:
        _require_named(run.path, run.recipe.name, run.recipe.sha256)
        by_name.setdefault(run.recipe.name, []).append(run)
    to.mkdir(parents=True, exist_ok=True)
    lines = []
    with registry.locked(to):
        pins = registry.read_pins(to / registry.REGISTRY_FILE)
        for name, seeds in sorted(by_name.items()):
            ranked = sorted(seeds, key=lambda run: (run.knn, run.recipe.seed))
            run = ranked[(len(ranked) - 1) // 2]
            checkpoint = from_folder(run.path / "export")
            _put_card(_stage_card(run.path / "export", to / name), to / name)
            registry.register(to / registry.REGISTRY_FILE, name, checkpoint.sha256)
            shown = f"{100 * run.knn:.2f} % by nearest neighbors"
            lines.append(f"{to / name}: seed {run.recipe.seed} of {len(seeds)}, without a classifier; {shown}")
            git_sha = checkpoint.config.get(BLOCK, {}).get("git_sha", "")
            lines += _warnings(name, git_sha, checkpoint.sha256, pins.get(name, {}))
    return lines


def _require_named(path: Path, name: str, recipe_sha256: str) -> None:
    if recipe_sha256 != get_recipe(name).sha256:
        raise InputError(f"{path} is not the named recipe {name} (other overrides or version); leave out --card")


def release(runs: Sequence[FinishedRun], to: Path, card: bool) -> list[str]:
    """Adds runs to their ledger and, with ``card``, makes the median seed's export the published checkpoint.

    Runs that were evaluated on other images than the test images go to the dev ledger.

    Args:
        runs: All seeds of a recipe together, or of several recipes.
        to: hub_cards/.
        card: Publish too; then only recipes without overrides are taken.

    Returns:
        What was done, one line each.

    Raises:
        InputError: A run is not the named recipe's, or the median seed is not among them; nothing was written.
    """
    for run in runs:
        if card:
            _require_named(run.path, run.row.name, run.row.recipe_sha256)
    to.mkdir(parents=True, exist_ok=True)
    with registry.locked(to):  # of two releases at once one waits, or it would lose the other's rows
        return _release(runs, to, card)


def _release(runs: Sequence[FinishedRun], to: Path, card: bool) -> list[str]:
    new: dict[str, list[Row]] = {registry.LEDGER_FILE: [], registry.DEV_LEDGER_FILE: []}
    for run in runs:
        fold = read_json(run.path / "recipe.json")["fold"]
        new[registry.LEDGER_FILE if fold == "test" else registry.DEV_LEDGER_FILE].append(run.row)
    ledgers = {file: merge(read_ledger(to / file), rows) for file, rows in new.items() if rows}
    # A damaged registry.json is said before anything is written.
    pins = registry.read_pins(to / registry.REGISTRY_FILE) if card else {}
    published = _median_runs(runs, ledgers.get(registry.LEDGER_FILE, [])) if card else []
    parts = {run.row.name: _stage_card(run.path / "export", to / run.row.name) for run in published}
    lines = []
    for file, all_rows in ledgers.items():
        write_ledger(to / file, all_rows)
        lines.append(f"{to / file}: {len(new[file])} runs added or updated, {len(all_rows)} in total")
    for run in published:
        name = run.row.name
        _put_card(parts[name], to / name)
        registry.register(to / registry.REGISTRY_FILE, name, run.row.weights_sha256)
        lines.append(f"{to / name}: seed {run.row.seed}, {100 * run.row.top1_ema:.2f} %")
        lines += _warnings(name, run.row.git_sha, run.row.weights_sha256, pins.get(name, {}))
    return [*lines, "now run `muscle-zoo cards render`: cards and pages quote the ledger"] if published else lines


def replace_card(new: Path, row: Row, to: Path, ledger: str) -> list[str]:
    """Puts a published checkpoint's new card and row in the place of its old ones.

    Args:
        new: Folder of the card.
        row: Of the same run as the old one.
        to: hub_cards/, or a folder to become one.
        ledger: The file that the row goes into.

    Returns:
        What was done, one line each.

    Raises:
        InputError: The ledger or registry.json is damaged; nothing was written.
    """
    to.mkdir(parents=True, exist_ok=True)
    with registry.locked(to):
        pin = registry.read_pins(to / registry.REGISTRY_FILE).get(row.name, {})
        rows = merge(read_ledger(to / ledger), [row])
        part = _stage_card(new, to / row.name)
        write_ledger(to / ledger, rows)
        _put_card(part, to / row.name)
        registry.register(to / registry.REGISTRY_FILE, row.name, row.weights_sha256)
    return [f"{to / row.name} and its row of {ledger}", *_warnings(row.name, row.git_sha, row.weights_sha256, pin)]


def _warnings(name: str, git_sha: str, sha256: str, pin: Mapping[str, Any]) -> list[str]:
    """What a maintainer should know of a new card before publishing it."""
    lines = []
    if git_sha.endswith("-dirty"):
        lines.append(f"warning: {name} was trained by files that were not committed ({git_sha})")
    if pin.get("repo") and pin["sha256"] != sha256:
        lines.append(
            f"warning: {name} has other weights than {pin['repo']}@{pin['revision']}, so it is no longer pinned; "
            "publish it again with --pin, and another --tag"
        )
    return lines


def median_run(rows: Sequence[Row]) -> Row:
    """The run with the median accuracy, the lower one of two; the first seed among equals."""
    ranked = sorted(rows, key=lambda row: (row.top1_ema, row.seed))
    accuracy = ranked[(len(ranked) - 1) // 2].top1_ema
    return min((row for row in rows if row.top1_ema == accuracy), key=lambda row: row.seed)


def _median_runs(runs: Sequence[FinishedRun], rows: Sequence[Row]) -> list[FinishedRun]:
    """Of each recipe the run that is published: no seed is picked, the median one is taken."""
    chosen = []
    for name, recipe_sha256 in sorted({(run.row.name, run.row.recipe_sha256) for run in runs}):
        median = median_run(runs_of(rows, name, recipe_sha256))
        run = next((run for run in runs if run.row.key == median.key), None)
        if run is None:
            raise InputError(f"{name}: the median seed is {median.seed}; give its run folder too")
        chosen.append(run)
    return chosen


def _stage_card(export: Path, card: Path) -> Path:
    """Copies an export beside the card that it is to become: what may fail for want of space comes before all else."""
    part = card.with_name(card.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for file in sorted(export.iterdir()):
            shutil.copyfile(file, part / file.name)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return part


def _put_card(part: Path, card: Path) -> None:
    shutil.rmtree(card, ignore_errors=True)
    part.rename(card)
