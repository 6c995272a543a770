"""What a run needs to go on: one safetensors file per part, written whole or not at all, two generations kept."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import START_OVER, InputError, TrainingError
from ..files import file_sha256, read_json, write_json

GENERATIONS = 2


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    """What an optimizer keeps from step to step; its settings belong to the recipe.

    Returns:
        Tensors and plain numbers by ``PARAMETER.KEY`` or ``group.GROUP.KEY``: some of timm's optimizers count
        their steps in a parameter group.

    Raises:
        InputError: It keeps something else, which could not be saved.
    """
    whole = optimizer.state_dict()
    values = {f"{index}.{key}": value for index, state in whole["state"].items() for key, value in state.items()}
    for index, group in enumerate(whole["param_groups"]):
        own = group.keys() - optimizer.defaults.keys() - {"params"}
        values |= {f"group.{index}.{key}": group[key] for key in own if isinstance(group[key], (int, float, Tensor))}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    if other := [name for name, value in values.items() if value is not None and name not in (*tensors, *numbers)]:
        raise InputError(f"optimizer: its state cannot be saved ({other[0]} is {type(values[other[0]]).__name__})")
    return tensors, numbers


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, int | float]
) -> None:
    """Puts back what :func:`optimizer_state` took."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Tensor | int | float]] = {}
    for name, value in (tensors | numbers).items():
        place, key = name.split(".", 1)
        if place == "group":
            index, key = key.split(".", 1)
            groups[int(index)][key] = value
        else:
            state.setdefault(int(place), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_state(folder: Path, step: int, parts: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> None:
    """Saves a generation.

    Args:
        folder: The run's ``state/``.
        step: Steps done.
        parts: File stem to named tensors.
        values: Plain values, kept in ``state.json``.

    Raises:
        OSError: It cannot be written.
        TrainingError: The same, as safetensors tells it.
    """
    target = folder / f"step-{step:09d}"
    part = folder / f".step-{step:09d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    digests = {}
    for name, tensors in parts.items():
        path = part / f"{name}.safetensors"
        try:
            save_file({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, path)
        except SafetensorError as error:  # not an OSError, though the disk is full
            raise TrainingError(f"{path} cannot be written ({error}); free space, or give another folder") from error
        _sync(path)
        digests[name] = file_sha256(path)
    write_json(part / "state.json", {"step": step, "sha256": digests, **values})
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    for old in _generations(folder)[GENERATIONS:]:
        shutil.rmtree(old)


def load_state(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """Loads the newest generation that is whole.

    Returns:
        The parts and the plain values (with ``step``); None when nothing was ever saved.

    Raises:
        TrainingError: Something was saved and none of it can be read. A run never starts from scratch in silence.
    """
    generations = _generations(folder)
    for generation in generations:
        try:
            values = read_json(generation / "state.json")
            digests = values["sha256"]
            return {name: _load(generation / f"{name}.safetensors", digests[name]) for name in digests}, values
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(f"{generation} is damaged ({error}); going back to the state before it", stacklevel=2)
    if generations:
        raise TrainingError(f"no state in {folder} can be read; {START_OVER}")
    return None


def load_generations(folder: Path, names: Sequence[str]) -> list[dict[str, dict[str, Tensor]]]:
    """Some parts of every generation that is whole, the newest first; none where nothing was saved."""
    found = []
    for generation in _generations(folder):
        try:
            digests = read_json(generation / "state.json")["sha256"]
            found.append({name: _load(generation / f"{name}.safetensors", digests[name]) for name in names})
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue
    return found


def saved_step(folder: Path) -> int:
    """Steps done when the newest generation was saved; 0 if there is none."""
    generations = _generations(folder)
    return int(generations[0].name.removeprefix("step-")) if generations else 0


def _load(path: Path, sha256: str) -> dict[str, Tensor]:
    if file_sha256(path) != sha256:
        raise ValueError(f"{path.name} is not what was written")
    return load_file(path)


def _sync(path: Path) -> None:
    """Has a file on disk, not only in the system's cache, before the folder is renamed."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _generations(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
