"""What a user may type where a checkpoint is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path

from ..errors import InputError, Notice
from . import weights
from .hub_names import canonical_name
from .weights import PICKLES, UNPICKLE

_SHOWN = 3  # runs in a message
_OF_A_RUN = ("recipe.json", "status.json")
_STOPPED = "is not finished: it was stopped while comparing; run the same train command again"


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
    if (Path(target) / "summary.json").is_file() and (Path(target) / "muscle").is_dir():
        raise InputError(f"{target} holds two runs; give {Path(target) / 'muscle'} or {Path(target) / 'supervised'}")
    folder = one_run(Path(target))
    if folder != Path(target):
        target = str(folder)
    if folder.suffix in PICKLES:
        raise InputError(f"{target} is a pickle, which may run anything when it is read; {UNPICKLE}")
    if (folder / "status.json").is_file() or (folder / "recipe.json").is_file():
        if not (folder / "export").is_dir():
            raise InputError(f"{target} is not finished, so it has no export/; run the same train command again")
        return f"{weights.LOCAL_DIR}{folder / 'export'}"
    if (folder / "config.json").is_file():
        return f"{weights.LOCAL_DIR}{folder}"
    if _was_comparing(folder):
        raise InputError(f"{target} {_STOPPED}")
    if "/" in target or folder.exists():
        what = "has neither recipe.json nor config.json" if folder.exists() else "does not exist"
        raise InputError(f"{target} {what}; give {weights.WHAT}")
    return target


def one_run(folder: Path) -> Path:
    """A run folder; of a folder that is none and holds one, as ``runs/NAME`` holds ``seed0``, that one, and it is said.

    Args:
        folder: What was typed.

    Returns:
        The run; what was typed where it is a run itself, or holds none.

    Raises:
        InputError: It holds several.
    """
    if any((folder / name).exists() for name in (*_OF_A_RUN, "config.json")):
        return folder
    found = _runs_in(folder)
    if len(found) > 1:
        raise InputError(f"{folder} {runs_inside(folder)}")
    if found:
        warnings.warn(f"{folder} is no run folder, but holds one, which is taken: {found[0]}", Notice, stacklevel=3)
    return found[0] if found else folder


def runs_inside(folder: Path) -> str:
    """What to say of a folder that is no run's and holds some, as ``runs/NAME`` holds ``seed0``; empty where not."""
    found = _runs_in(folder)
    if not found:
        return ""
    number = "a run" if len(found) == 1 else f"{len(found)} runs"
    return f"is no run folder, but holds {number}; give {' or '.join(map(str, found[:_SHOWN]))}"


def require_run(folder: Path) -> None:
    """Refuses what is no run folder, and says what it is instead.

    Raises:
        InputError: It is not there, holds runs, was stopped before its run began, or is another folder.
    """
    if (folder / "status.json").is_file():
        return
    if inside := runs_inside(folder):
        raise InputError(f"{folder} {inside}")
    if _was_comparing(folder):
        raise InputError(f"{folder} {_STOPPED}")
    but = "" if folder.exists() else ": it does not exist"
    raise InputError(f"{folder} is no run folder{but}; give one that `train` made, which has status.json")


def _was_comparing(folder: Path) -> bool:
    """Whether `train` on one's own pictures was stopped there before it chose what to train."""
    return (folder / "comparison").is_dir() or (folder / "pictures.json").is_file()


def _runs_in(folder: Path) -> list[Path]:
    return sorted({path.parent for name in _OF_A_RUN for path in folder.glob(f"*/{name}")})
