"""Pictures to label next, of a run, written for people: a table to fill in, Label Studio's tasks, a contact sheet."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from ..data import DataConfig
from ..data.shard_files import ShardFolder
from ..errors import InputError
from ..files import write_json, write_text
from .run_pictures import RunPictures, load_run_pictures, snapshot_probabilities
from .suggest import DEFAULT_RULE, RULES, Pool, choose

COLUMNS = ("path", "label", "suggested_label", "probability", "score", "adds_to")
KINDS = (".csv", ".json")
_ACROSS = 5  # pictures beside each other on a sheet
_SIDE = 224  # pixels


@dataclass(frozen=True)
class Suggestion:
    """A picture to label next.

    Attributes:
        name: Its path below the folder of the pictures.
        label: The most probable class.
        probability: Of that class, calibrated.
        score: Why: see the rule.
    """

    name: str
    label: str
    probability: float
    score: float


@dataclass(frozen=True)
class Suggestions:
    """The pictures of a run to label next, the best first, by a rule."""

    pictures: RunPictures
    rule: str
    chosen: tuple[Suggestion, ...]

    def write(self, path: Path) -> None:
        """Writes a table to fill in (``.csv``), or Label Studio's tasks (``.json``).

        Raises:
            InputError: The ending is another, or there is such a file: labels may have been filled in.
        """
        check_out(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            write_json(path, self._tasks())
        else:
            write_text(path, self._table(path))

    def _table(self, path: Path) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        folder, root, source = path.parent.resolve(), self.pictures.root, self.pictures.source
        adds_to = "" if source is None else _relative(source, folder)
        for one in self.chosen:
            picture = one.name if root is None else _relative(root.resolve() / one.name, folder)
            writer.writerow([picture, "", one.label, f"{one.probability:.4f}", f"{one.score:.4f}", adds_to])
        return text.getvalue()

    def _tasks(self) -> list[dict[str, Any]]:
        """Label Studio's, whose server shows files below the folder in which that of the pictures lies."""
        root, source = self.pictures.root, self.pictures.source
        if root is None or source is None:
            raise InputError(f"{self.pictures.recipe.dataset}: its images are no files to be labeled; write a .csv")
        if isinstance(root, ShardFolder):
            raise InputError(f"{root}: Label Studio shows files, and these pictures are inside of shards; write a .csv")
        tasks = []
        for one in self.chosen:
            result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [one.label]}}
            prediction = {"model_version": self.pictures.recipe.name, "score": one.probability, "result": [result]}
            url = f"/data/local-files/?d={quote(f'{root.name}/{one.name}')}"
            data = {"image": url, "path": one.name, "adds_to": source.as_posix(), "score": one.score}
            tasks.append({"data": data, "predictions": [prediction]})
        return tasks

    def draw(self, path: Path) -> None:
        """Draws a contact sheet: each picture with its number, name, and what the network takes it for."""
        from matplotlib.figure import Figure

        positions = {name: position for position, name in enumerate(self.pictures.names)}
        rows = max(1, -(-len(self.chosen) // _ACROSS))
        figure = Figure(figsize=(2.1 * _ACROSS, 2.45 * rows), dpi=110, layout="constrained")
        axes = figure.subplots(rows, _ACROSS, squeeze=False).flatten()
        for number, axis in enumerate(axes):
            axis.set_axis_off()
            if number < len(self.chosen):
                one = self.chosen[number]
                picture = self.pictures.picture(positions[one.name])
                picture.thumbnail((_SIDE, _SIDE))
                axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
                title = f"{number + 1}. {_short(one.name.rpartition('/')[2])}\n{_short(one.label, 16)}"
                axis.set_title(f"{title}, {100 * one.probability:.0f} %", fontsize=7.5, parse_math=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def check_out(path: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Refuses a file of another kind, and one that is there: labels may have been filled in.

    Raises:
        InputError: It is one.
    """
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path} has no ending that is known; give {' or '.join(kinds)}")
    if path.exists():
        raise InputError(f"{path} is there, and labels may be filled in; give another name, or delete it")


def suggest_pictures(
    run: Path, number: int, rule: str = DEFAULT_RULE, data: DataConfig | None = None, seed: int = 0, cpu: bool = False
) -> Suggestions:
    """The unlabeled pictures of a run that are best labeled next.

    Args:
        run: The folder of a finished run.
        number: How many; all that are left where there are fewer.
        rule: One of :data:`muscle_zoo.auto.suggest.RULES`.
        data: Where the pictures are now; by default where they were.
        seed: Of k-means, and of the rule ``random``.
        cpu: Stay on the CPU.

    Raises:
        InputError: There is no such rule or run, no picture is left without a label, or the run keeps no state for the
            rule ``disagreement``.

    Example:
        >>> [one.name for one in suggest_pictures(Path("runs/mine"), 50).chosen]  # doctest: +SKIP
        ['unlabeled/0391.jpg', ...]
    """
    if number < 1:
        raise InputError(f"-n {number} is out of range; give 1 or more")
    if rule not in RULES:
        choose(rule, Pool(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0, 1)), 0)  # says which there are
    pictures = load_run_pictures(run, data, cpu)
    left = pictures.unlabeled
    if not len(left):
        raise InputError(f"{run}: every one of its {len(pictures.names)} pictures has a label; add pictures without")
    pool = pool_of(pictures, left, rule, seed, cpu)
    best = pool.probabilities.max(dim=1)
    chosen = tuple(
        Suggestion(
            pictures.names[int(left[choice.position])],
            pictures.class_names[int(best.indices[choice.position])],
            float(best.values[choice.position]),
            choice.score,
        )
        for choice in choose(rule, pool, number)
    )
    return Suggestions(pictures, rule, chosen)


def pool_of(pictures: RunPictures, left: Tensor, rule: str, seed: int = 0, cpu: bool = False) -> Pool:
    """What a rule may choose from.

    Args:
        pictures: Of a run.
        left: Positions of the pictures that may be labeled, ``(n,)``.
        rule: ``disagreement`` needs the run's saved weights, too.
        seed: Of k-means, and of the rule ``random``.
        cpu: Stay on the CPU.

    Raises:
        InputError: The run keeps no state for the rule ``disagreement``.
    """
    teacher, students = snapshot_probabilities(pictures, left, cpu) if rule == "disagreement" else (None, [])
    return Pool(
        pictures.probabilities[left],
        pictures.embeddings[left],
        pictures.embeddings[pictures.labeled],
        teacher,
        torch.stack(students) if students else None,
        seed,
    )


def _relative(path: Path, folder: Path) -> str:
    """A path as it is written into a file in a folder; whole where it is on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.as_posix()


def _short(name: str, most: int = 22) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= most else f"{shown[: most - 8]}…{shown[-7:]}"
