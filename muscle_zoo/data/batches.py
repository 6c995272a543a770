"""The images of each step: pure functions of (seed, step, position in the global batch).

All random numbers are drawn on the CPU for the whole global batch and then cut to the process's share, so that one
process and many, a CPU and a GPU, a fresh run and a resumed one see the same images with the same views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import InputError
from ..methods.contract import Batch, View
from ..recipes import Recipe
from .augment import parse_policy
from .datasets import DataSetInfo, LabelledImages
from .splits import Split


def normalise(images: Tensor, info: DataSetInfo) -> Tensor:
    """Turns uint8 images, or images in 0..1, into what a network takes: zero mean, unit variance per channel."""
    if images.dtype == torch.uint8:
        images = images.float() / 255.0
    mean = torch.tensor(info.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(info.std, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / std


def _seed(*key: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big") >> 1


def _generator(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*key))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a network draws inside a step (dropout), so that a resumed run draws the same.

    It is the process's own: unlike images and views, dropout differs between one process and several.
    """
    return _seed(seed, "step", step, rank)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: str, epoch: int, n: int) -> Tensor:
    return torch.randperm(n, generator=_generator(seed, stream, epoch))


def stream_positions(seed: int, stream: str, step: int, size: int, n: int) -> Tensor:
    """Which of n images stand in a step's global batch: a new permutation of all n each time they are used up.

    Args:
        seed: Of the run.
        stream: ``labelled`` or ``unlabelled``.
        step: Counted from 0.
        size: Images in the global batch.
        n: Images in the stream.

    Returns:
        ``(size,)`` int64 positions in 0..n-1.
    """
    start = step * size
    pieces = []
    while start < (step + 1) * size:
        epoch, offset = divmod(start, n)
        piece = _permutation(seed, stream, epoch, n)[offset : offset + (step + 1) * size - start]
        pieces.append(piece)
        start += len(piece)
    return torch.cat(pieces)


def draws(seed: int, step: int, view: View, size: int, count: int) -> Tensor:
    """Uniform numbers for one view of a step's global batch, ``(size, count)`` in 0..1."""
    return torch.rand(size, count, generator=_generator(seed, "view", *view, step))


@dataclass
class Batches:
    """Makes the batch of any step, for one process of many.

    Args:
        recipe: Seed, batch sizes, policies.
        images: All training images, on the device that is to make the views.
        info: Mean and standard deviation.
        split: Which images are labelled.
        views: The views that the method names.
        rank: This process.
        world_size: All processes.

    Raises:
        InputError: A batch size does not divide by the processes, a policy is wrong, or the method needs unlabelled
            images and mu is 0.
    """

    recipe: Recipe
    images: LabelledImages
    info: DataSetInfo
    split: Split
    views: Mapping[str, View]
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.policies = {
            "weak": parse_policy("weak", recipe.weak),
            "strong": parse_policy("strong", recipe.strong),
        }
        needs_unlabelled = any(view.source == "unlabelled" for view in self.views.values())
        if needs_unlabelled and recipe.mu < 1:
            raise InputError(f"mu={recipe.mu}: {recipe.method} needs unlabelled images; give 1 or more")
        if recipe.batch_size % self.world_size:
            raise InputError(
                f"batch_size={recipe.batch_size} does not divide by {self.world_size} processes; "
                f"give a multiple of {self.world_size}"
            )
        device = self.images.images.device
        self.pools = {
            "labelled": torch.tensor(self.split.labelled, device=device),
            "unlabelled": torch.tensor(self.split.unlabelled, device=device),
        }
        self.sizes = {"labelled": recipe.batch_size, "unlabelled": recipe.batch_size * recipe.mu}

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0: this process's share of it."""
        recipe, device = self.recipe, self.images.images.device
        positions: dict[str, Tensor] = {}
        raw: dict[str, Tensor] = {}
        for source in {view.source: None for view in self.views.values()} | {"labelled": None}:
            pool = self.pools[source]
            chosen = stream_positions(recipe.seed, source, step, self.sizes[source], len(pool))
            positions[source] = pool[self._share(chosen).to(device)]
            raw[source] = self.images.images[positions[source]].float() / 255.0
        inputs = {}
        for name, view in self.views.items():
            policy = self.policies[view.policy]
            numbers = self._share(draws(recipe.seed, step, view, self.sizes[view.source], policy.draws))
            inputs[name] = normalise(policy(raw[view.source], numbers.to(device)), self.info)
        none = torch.empty(0, dtype=torch.int64, device=device)
        return Batch(inputs, self.images.labels[positions["labelled"]], positions.get("unlabelled", none))

    def _share(self, rows: Tensor) -> Tensor:
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]
