"""The comparison: each method trained on each fold's labels, and what it says of the pictures that were held out.

What a fold gave is kept in a file, written whole, so that a comparison that was stopped or killed goes on after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..data import Split
from ..data.embedded import EmbeddedImages
from ..engine.build import Data, to_device
from ..engine.frozen import on_split
from ..engine.options import RunOptions
from ..engine.run_folder import RunFolder
from ..engine.trainer import Trainer
from ..errors import TrainingError
from ..files import write_bytes
from ..methods import takes_steps
from ..recipes import Recipe
from .findings import OutOfFold
from .folds import NEVER

ROWS = 4096  # that are predicted at a time


class CrossValidation:
    """Cross-validation of methods on the same embeddings, fold by fold.

    Every method sees the same labels and the same pool in a fold. What is held out is in neither; all pictures without
    a label are in every pool. Embeddings are standardized once, by all pictures, those held out included: their mean
    and variance hardly change by these, and tell no class.

    Args:
        recipes: By method, all of one backbone, seed and set of views.
        data: Embedded, with the split of all labels.
        fold: ``(R, n)``: which fold holds each labeled picture out, see :func:`muscle_zoo.auto.folds.draw_folds`.
        folder: Where the folds' results are kept.
        options: How it is trained.
    """

    def __init__(
        self, recipes: Mapping[str, Recipe], data: Data, fold: Tensor, folder: Path, options: RunOptions
    ) -> None:
        self.recipes, self.fold, self.folder, self.options = recipes, fold, folder, options
        self.device = options.accelerator(RunFolder(folder)).device
        images = to_device(data.dataset.train, self.device)  # once, and not anew for each fold
        self.data = replace(data, dataset=replace(data.dataset, train=images))
        self.labeled = torch.tensor(data.split.labeled)

    def parts(self) -> list[tuple[str, int, int]]:
        """Method, repeat and fold of each part, so ordered that the methods advance side by side."""
        return [
            (method, repeat, fold)
            for repeat, held in enumerate(self.fold)
            for fold in range(int(held.max()) + 1)
            for method in self.recipes
        ]

    def number_done(self) -> int:
        """How many parts were done before."""
        return sum(self._read(*part) is not None for part in self.parts())

    def run(self) -> Iterator[tuple[str, bool]]:
        """Does what is not done yet, part after part; whoever asks for no more of them stops it.

        Yields:
            The method of each part, and whether it was there before.

        Raises:
            TrainingError: A loss is not finite.
        """
        for method, repeat, fold in self.parts():
            there = self._read(method, repeat, fold) is not None
            if not there:
                began = time.monotonic()
                said = self._held_out_probabilities(method, repeat, fold)
                facts = {"seconds": f"{time.monotonic() - began:.3f}", "format": "pt"}
                write_bytes(self._file(method, repeat, fold), save({"probabilities": said}, facts))
            yield method, there

    def out_of_fold(self) -> tuple[OutOfFold, dict[str, float]]:
        """All predictions, and the seconds that each method took."""
        classes = self.data.dataset.info.num_classes
        train = self.data.dataset.train
        probabilities = {m: torch.full((*self.fold.shape, classes), torch.nan) for m in self.recipes}
        seconds = dict.fromkeys(self.recipes, 0.0)
        for method, repeat, fold in self.parts():
            part = self._read(method, repeat, fold)
            assert part is not None, f"{method} has not done fold {fold} of repeat {repeat}"
            probabilities[method][repeat, self.fold[repeat] == fold] = part[0]
            seconds[method] += part[1]
        names = tuple(train.names[i] for i in self.labeled.tolist())
        return OutOfFold(names, self.labeled, train.labels[self.labeled], self.fold, probabilities), seconds

    def forget_parts(self) -> None:
        """Removes the parts' files, once all that they hold stands elsewhere."""
        for part in self.parts():
            self._file(*part).unlink(missing_ok=True)

    def _file(self, method: str, repeat: int, fold: int) -> Path:
        return self.folder / f"{method}-{repeat}-{fold}.safetensors"

    def _read(self, method: str, repeat: int, fold: int) -> tuple[Tensor, float] | None:
        """A part's probabilities and seconds; None where it is not done, or its file is of no use."""
        with (
            suppress(OSError, SafetensorError, ValueError, LookupError),
            safe_open(self._file(method, repeat, fold), "pt") as file,
        ):
            said = torch.clone(file.get_tensor("probabilities"))
            shape = int((self.fold[repeat] == fold).sum()), self.data.dataset.info.num_classes
            if tuple(said.shape) == shape:
                return said, float((file.metadata() or {})["seconds"])
        return None

    def _held_out_probabilities(self, method: str, repeat: int, fold: int) -> Tensor:
        held = self.fold[repeat] == fold
        split = without(self.data.split, self.labeled[held].tolist())
        recipe = self.recipes[method]
        data = on_split(recipe, self.data, split)
        head = train_head(recipe, data, self.options, self.folder)
        return predict(head, self.data.dataset.train, self.labeled[held], self.device)


def without(split: Split, held_out: list[int]) -> Split:
    """A split without some labeled images: they are in the pool no more, either.

    Example:
        >>> split = Split("folder", 3, 0, "test", (0, 1, 4), (0, 1, 2, 3, 4), ())
        >>> without(split, [1]).labeled, without(split, [1]).unlabeled
        ((0, 4), (0, 2, 3, 4))
    """
    held = set(held_out)
    labeled, unlabeled = (tuple(i for i in ids if i not in held) for ids in (split.labeled, split.unlabeled))
    return replace(split, labeled=labeled, unlabeled=unlabeled, held_out=tuple(sorted(held)))


def train_head(recipe: Recipe, data: Data, options: RunOptions, folder: Path) -> nn.Module:
    """The averaged weights of a classifier on embeddings after the recipe's steps: what a run would publish.

    Args:
        recipe: With ``tune=head``.
        data: Embedded, see :func:`muscle_zoo.engine.frozen.on_split`.
        options: How.
        folder: Of the accelerator; nothing is written.

    Raises:
        TrainingError: The loss is not finite.
    """
    assert data.head is not None
    if not takes_steps(recipe.method):
        return data.head
    trainer = Trainer(recipe, data, options.accelerator(RunFolder(folder)))
    trainer.model.train()
    terms: dict[str, Tensor] = {}
    for step, batch in enumerate(trainer.batches.steps(0, recipe.steps)):
        terms, _ = trainer.step(step, batch)
    if not terms["loss"].isfinite():
        raise TrainingError(f"{recipe.method}: the loss is not finite after {recipe.steps} steps; lower lr")
    return trainer.ema.module


@torch.inference_mode()
def predict(head: nn.Module, images: object, positions: Tensor, device: torch.device) -> Tensor:
    """Probabilities ``(m, C)`` float32 of some images' plain embeddings, on the CPU."""
    assert isinstance(images, EmbeddedImages)
    head = head.eval().to(device)
    logits = [head(batch.to(device)).float().cpu() for batch in images.batches(positions.split(ROWS))]
    return torch.cat(logits).softmax(dim=1)


def held_out(fold: Tensor) -> Tensor:
    """``(n,)`` bool: which pictures were ever held out."""
    return (fold != NEVER).all(dim=0)
