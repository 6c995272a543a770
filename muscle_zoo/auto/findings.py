"""What a comparison leaves in a run folder: ``comparison.json`` and ``out_of_fold.safetensors``, written and read.

Beside them lies ``pictures.json``, the manifest of the pictures (data/manifest.py): a picture's file is its name below
:attr:`Found.root`. Accuracies are shares, 0 to 1; gains are differences of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..files import read_untrusted_json, write_bytes, write_json

COMPARISON = "comparison.json"
OUT_OF_FOLD = "out_of_fold.safetensors"
FORMAT = 1  # goes up when what is written would be misread by the code of before


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; without bounds where there is too little to say any."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Found:
    """What was found in the user's folder or CSV.

    Attributes:
        data: The folder or CSV, as a whole path.
        root: The folder that the pictures' names are below.
        labeled: Labeled pictures of each class, in the order of the classes.
        unlabeled: Pictures without a label.
        test: Test pictures of each class; all 0 where there are none.
        unreadable: Names of pictures that cannot be read; they are in none of the counts.
    """

    data: str
    root: str
    labeled: tuple[int, ...]
    unlabeled: int
    test: tuple[int, ...]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodScore:
    """What a method did on labeled pictures that it had not seen.

    Attributes:
        method: Such as ``muscle``; ``logistic`` is the linear probe.
        accuracy: Share of held-out pictures that it got right, with Wilson's interval over the pictures.
        balanced_accuracy: Mean over the classes of the share of each that it got right.
        macro_f1: Mean over the classes of F1.
        nll: Mean negative log-likelihood in nats, of probabilities that are not calibrated.
        per_fold: Accuracy in each fold, repeat after repeat.
        uses_unlabeled: Whether it learns from the unlabeled pictures too.
        can_be_exported: Whether a network can hold it; one that cannot is compared, and never chosen.
        seconds: That its folds took.
    """

    method: str
    accuracy: Interval
    balanced_accuracy: float
    macro_f1: float
    nll: float
    per_fold: tuple[float, ...]
    uses_unlabeled: bool
    can_be_exported: bool
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What ``comparison.json`` holds.

    Attributes:
        found: The pictures.
        classes: Their names.
        backbone: What embedded the pictures, as ``init`` takes it.
        seed: Drew the folds.
        folds: In each repeat; 0 where nothing could be held out.
        repeats: How often the pictures were divided anew.
        methods: The scores, in the order in which they were asked for; empty where nothing could be held out.
        chosen: The method that is trained on all labels.
        control: The method that the gain is over: the best of those that learn from the labels alone.
        with_unlabeled: The method that the gain is of: the best of those that learn from unlabeled pictures too. It is
            the chosen one where the gain is above 0; empty where there was none.
        expected: Accuracy to expect of the chosen one on new pictures, less ``optimism``.
        gain: Of ``with_unlabeled`` over ``control``, paired, less ``gain_optimism``; None where there was nothing to
            compare.
        optimism: By how much having been chosen flatters the chosen one.
        why: Why this one was chosen, in a sentence.
        warnings: What a reader should know, a sentence each.
        seconds: That the comparison took, in all sessions.
        test: Accuracy on the test pictures, of the chosen one, with Wilson's interval; None before it was measured,
            and where there are none.
        gain_optimism: By how much being the best of those that learn from unlabeled pictures flatters
            ``with_unlabeled``.
        asked: What ``expected`` leaves out, in words: labels that were asked for; empty where there were none.
    """

    found: Found
    classes: tuple[str, ...]
    backbone: str
    seed: int
    folds: int
    repeats: int
    methods: tuple[MethodScore, ...]
    chosen: str
    control: str
    with_unlabeled: str
    expected: Interval | None
    gain: Interval | None
    optimism: float
    why: str
    warnings: tuple[str, ...]
    seconds: float
    test: Interval | None = None
    gain_optimism: float = 0.0
    asked: str = ""

    @property
    def judged(self) -> int:
        """How many pictures were held out to judge by: those of classes with two labels or more."""
        return sum(count for count in self.found.labeled if count > 1) if self.folds else 0

    def score(self, method: str) -> MethodScore:
        """The score of a method.

        Raises:
            KeyError: It was not compared.
        """
        return {score.method: score for score in self.methods}[method]

    def write(self, folder: Path) -> None:
        """Writes ``comparison.json``, whole."""
        write_json(folder / COMPARISON, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Reads it from a run folder.

        Raises:
            InputError: There is none, or it is damaged.

        Example:
            >>> Comparison.read(Path("runs/my_pictures")).chosen  # doctest: +SKIP
            'muscle'
        """
        file = folder / COMPARISON
        if not file.exists():
            raise InputError(f"{file} is missing; give the folder of a run that `muscle-zoo train FOLDER` made")
        try:
            values = read_untrusted_json(file)
            if values.pop("format") != FORMAT:
                raise ValueError("it is of another version of this package")
            made: Comparison = _made(cls, values)
            return made
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({error}); train again with --fresh") from None


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass of plain values; unknown keys are refused by its constructor."""
    made = dict(values)
    for field in fields(kind):
        value = made.get(field.name)
        if isinstance(value, list):
            made[field.name] = tuple(_made(MethodScore, v) if field.name == "methods" else v for v in value)
        elif isinstance(value, dict):
            made[field.name] = _made(Found if field.name == "found" else Interval, value)
    return kind(**made)


@dataclass(frozen=True)
class OutOfFold:
    """What each method said of each labeled picture when it had not learned from it.

    Attributes:
        names: Of the labeled pictures, below :attr:`Found.root`, ``n`` of them.
        indices: Their positions among the readable training pictures, ``(n,)`` int64.
        labels: Their classes, ``(n,)`` int64.
        fold: ``(R, n)`` int64: the fold that held a picture out, in each of R repeats; -1 for one that was never held
            out, because it is the only one of its class.
        probabilities: By method ``(R, n, C)`` float32, not calibrated; rows of pictures never held out are nan.
    """

    names: tuple[str, ...]
    indices: Tensor
    labels: Tensor
    fold: Tensor
    probabilities: Mapping[str, Tensor]

    def mean(self, method: str) -> Tensor:
        """Probabilities ``(n, C)``, averaged over the repeats; nan for pictures that were never held out."""
        return self.probabilities[method].mean(dim=0)

    def held_out(self, method: str) -> tuple[Tensor, Tensor, int]:
        """Predictions ``(m, C)`` of held-out pictures in all repeats, their labels ``(m,)``, and how many pictures."""
        there = self.fold >= 0
        labels = self.labels.expand(len(self.fold), -1)
        return self.probabilities[method][there], labels[there], int(there.any(dim=0).sum())

    def write(self, folder: Path) -> None:
        """Writes ``out_of_fold.safetensors``, whole."""
        tensors = {f"probabilities/{method}": value.float() for method, value in self.probabilities.items()}
        tensors |= {"indices": self.indices, "labels": self.labels, "fold": self.fold}
        metadata = {"format": "pt", "names": json.dumps(self.names)}
        write_bytes(folder / OUT_OF_FOLD, save({k: v.contiguous() for k, v in tensors.items()}, metadata))

    @classmethod
    def read(cls, folder: Path) -> OutOfFold | None:
        """Reads it from a run folder; None where nothing could be held out.

        Raises:
            InputError: It is damaged.
        """
        file = folder / OUT_OF_FOLD
        if not file.exists():
            return None
        try:
            with safe_open(file, "pt") as stored:
                tensors = {key: torch.clone(stored.get_tensor(key)) for key in stored.keys()}  # noqa: SIM118
                names = tuple(json.loads((stored.metadata() or {})["names"]))
            probabilities = {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith("probabilities/")}
            return cls(names, tensors["indices"], tensors["labels"], tensors["fold"], probabilities)
        except (OSError, SafetensorError, ValueError, LookupError) as error:
            raise InputError(f"{file} is damaged ({error}); train again with --fresh") from None
