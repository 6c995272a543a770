"""What a user may type where a checkpoint is asked for."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from . import weights
from .hub_names import canonical_name
from .weights import PICKLES, UNPICKLE

_SHOWN = 3  # runs in a message


def checkpoint_name(target: str) -> str:
    """The name by which a model is created, of whatever a user may type for it: a run's or a card's folder too.

    Args:
        target: What was typed: a name, a run folder, a card folder, ``local-dir:PATH``, or a repo on the Hub in any
            spelling of :func:`muscle_zoo.checkpoints.hub_names.canonical_name`.

    Returns:
        What :func:`muscle_zoo.create_model` takes.

    Raises:
        InputError: It is a path that holds no finished run and no card, or a pickle.
    """
    target = canonical_name(target)
    if target.startswith((weights.LOCAL_DIR, weights.HF_HUB)):
        return target
    folder = Path(target)
    if folder.suffix in PICKLES:
        raise InputError(f"{target} is a pickle, which may run anything when it is read; {UNPICKLE}")
    if (folder / "status.json").is_file() or (folder / "recipe.json").is_file():
        if not (folder / "export").is_dir():
            raise InputError(f"{target} is not finished, so it has no export/; run the same train command again")
        return f"{weights.LOCAL_DIR}{folder / 'export'}"
    if (folder / "config.json").is_file():
        return f"{weights.LOCAL_DIR}{folder}"
    if (folder / "summary.json").is_file() and (folder / "muscle").is_dir():
        raise InputError(f"{target} holds two runs; give {folder / 'muscle'} or {folder / 'supervised'}")
    if inside := runs_inside(folder):
        raise InputError(f"{target} {inside}")
    if "/" in target or folder.exists():
        what = "has neither recipe.json nor config.json" if folder.exists() else "does not exist"
        raise InputError(f"{target} {what}; give {weights.WHAT}")
    return target


def runs_inside(folder: Path) -> str:
    """What to say of a folder that is no run's and holds some, as ``runs/NAME`` holds ``seed0``; empty where not."""
    found = sorted({path.parent for name in ("recipe.json", "status.json") for path in folder.glob(f"*/{name}")})
    if not found:
        return ""
    number = "a run" if len(found) == 1 else f"{len(found)} runs"
    return f"is no run folder, but holds {number}; give {' or '.join(map(str, found[:_SHOWN]))}"
