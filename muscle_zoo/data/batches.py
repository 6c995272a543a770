"""The images of each step: pure functions of (seed, step, position in the global batch).

All random numbers are drawn on the CPU for the whole global batch; then each process keeps the rows of its own images.
That costs a process the draws of the others, and buys that one process and many, a CPU and a GPU, a fresh run and a
resumed one see the same images with the same views.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, tee
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..methods.base import Batch, Group, View
from ..recipes import Recipe
from .augment import parse_policy
from .catalog import DataSetInfo
from .images import ImageSource
from .normalization import normalize
from .splits import Split

MOST_AHEAD = 16  # steps whose views are made together
# Numbers in the views that are made together, at most: of more a processor is slower, for its cache holds few.
_NUMBERS = {"cpu": 6_000_000, "cuda": 30_000_000}

# These words are hashed into the seeds of the generators. The published runs were drawn with the British spelling: with
# the American one every run would see other batches and views, and no published hash could be reproduced.
_SEED_WORDS = {"labeled": "labelled", "unlabeled": "unlabelled", "classes": "classes"}


def _seed(*key: object) -> int:
    # sha256, for Python's own hash() of text differs from one process to the next. A generator's seed has 63 bits.
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big") >> 1


def seeded_generator(*key: object) -> torch.Generator:
    """A CPU generator whose numbers are a pure function of some words and numbers."""
    return torch.Generator().manual_seed(_seed(*key))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a network draws inside a step (dropout), so that a resumed run draws the same.

    It is the process's own: unlike images and views, dropout differs between one process and several.
    """
    return _seed(seed, "step", step, rank)


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: str, epoch: int, n: int) -> Tensor:
    # A new one is needed once in many steps: those of both streams, before and after, stay in the cache.
    return torch.randperm(n, generator=seeded_generator(seed, stream, epoch))


def stream_positions(seed: int, stream: str, step: int, size: int, n: int) -> Tensor:
    """Which of n images stand in a step's global batch: a new permutation of all n each time they are used up.

    Args:
        seed: Of the run.
        stream: ``labeled`` or ``unlabeled``.
        step: Counted from 0.
        size: Images in the global batch.
        n: Images in the stream.

    Returns:
        ``(size,)`` int64 positions in 0..n-1.
    """
    # The stream has no state: a step's place in it is its number times the batch size, so a resumed run looks it up.
    start = step * size
    pieces = []
    while start < (step + 1) * size:
        epoch, offset = divmod(start, n)
        piece = _permutation(seed, _SEED_WORDS[stream], epoch, n)[offset : offset + (step + 1) * size - start]
        pieces.append(piece)
        start += len(piece)
    return torch.cat(pieces)


@lru_cache(maxsize=1024)
def _order_of_class(seed: int, number: int, turn: int, n: int) -> list[int]:
    return torch.randperm(n, generator=seeded_generator(seed, "class", number, turn)).tolist()


def balanced_positions(seed: int, step: int, size: int, members: Sequence[Sequence[int]]) -> Tensor:
    """Which labeled images stand in a step's global batch where each class is to be seen equally often.

    Of every C images in a row one is of each class, in an order that is drawn anew; the images of a class come in a new
    permutation each time they are used up. So the images of a rare class come again sooner (class-balanced sampling,
    as Kang et al., ICLR 2020, arXiv 1910.09217, call it).

    Args:
        seed: Of the run.
        step: Counted from 0.
        size: Images in the global batch.
        members: Of each class that has any, the positions of its images; C of them.

    Returns:
        ``(size,)`` int64 of these positions.

    Example:
        >>> balanced_positions(0, 0, 6, [[0, 1, 2, 3, 4], [5]]).eq(5).sum()
        tensor(3)
    """
    numbers = stream_positions(seed, "classes", step, size, len(members)).tolist()
    rows = []
    for place, number in enumerate(numbers, start=step * size):
        # Each class is in every round of C images once, so the round says how many of its images came before.
        turn, at = divmod(place // len(members), len(members[number]))
        rows.append(members[number][_order_of_class(seed, number, turn, len(members[number]))[at]])
    return torch.tensor(rows)


def draw_random_numbers(seed: int, step: int, view: View, size: int, count: int) -> Tensor:
    """Uniform numbers for one view of a step's global batch, on the CPU.

    Args:
        seed: Of the run.
        step: Counted from 0.
        view: Two views that differ in source, policy or draw have independent numbers.
        size: Images in the global batch.
        count: Numbers per image, see :attr:`muscle_zoo.data.augment.Policy.num_random`.

    Returns:
        ``(size, count)`` float32 in 0..1.
    """
    # The generators of a CPU and a GPU differ, so it is always the CPU's.
    words = _SEED_WORDS[view.source], view.policy, view.draw
    return torch.rand(size, count, generator=seeded_generator(seed, "view", *words, step))


class Stored(NamedTuple):
    """The images of a step as they are stored.

    Attributes:
        step: Counted from 0.
        positions: Which training images they are, by source.
        images: ``(n, C, H, W)``: those of each source, one after the other.
    """

    step: int
    positions: dict[str, Tensor]
    images: Tensor

    def part(self, source: str) -> Tensor:
        """The images of one source."""
        sizes = [len(rows) for rows in self.positions.values()]
        return self.images.split(sizes)[list(self.positions).index(source)]


@dataclass
class Batches:
    """Makes the batch of any step, for one process of many.

    Args:
        recipe: Seed, batch sizes, policies.
        images: All training images.
        info: Mean and standard deviation.
        split: Which images are labeled.
        views: The views that the method names.
        rank: This process, counted from 0.
        world_size: Number of processes.
        device: Where the views are made.

    Raises:
        InputError: A batch size is not divisible by the processes, a policy is wrong, or the method needs unlabeled
            images and mu is 0, or looks at no labeled ones and these are to be balanced.
    """

    recipe: Recipe
    images: ImageSource
    info: DataSetInfo
    split: Split
    views: Mapping[str, View]
    rank: int = 0
    world_size: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.policies = {
            "weak": parse_policy("weak", recipe.weak),
            "strong": parse_policy("strong", recipe.strong),
        }
        sources = {view.source for view in self.views.values()}
        if "unlabeled" in sources and recipe.mu < 1:
            raise InputError(f"mu={recipe.mu}: {recipe.method} needs unlabeled images; give 1 or more")
        if recipe.batch_size % (self.world_size * recipe.accumulate):
            parts = f" and accumulate={recipe.accumulate}" if recipe.accumulate > 1 else ""
            raise InputError(
                f"batch_size={recipe.batch_size} is not divisible by {self.world_size} processes{parts}; "
                f"give a multiple of {self.world_size * recipe.accumulate}"
            )
        pools = {"labeled": self.split.labeled, "unlabeled": self.split.unlabeled}
        sizes = {"labeled": recipe.batch_size, "unlabeled": recipe.batch_size * recipe.mu}
        self.labeled = torch.tensor(self.split.labeled)
        self.labels, self.uniform = self.images.labels, recipe.sampling == "uniform" and "labeled" in sources
        if self.uniform:
            pools["labeled"] = tuple(sorted({*self.split.labeled, *self.split.unlabeled}))
            self.labels = torch.full_like(self.images.labels, -1)
            self.labels[self.labeled] = self.images.labels[self.labeled]
        self.pools = {source: torch.tensor(pools[source]) for source in pools if source in sources}
        self.sizes = {source: sizes[source] for source in self.pools}
        self.members = self._members() if recipe.sampling == "balanced" else []

    def at(self, step: int) -> Batch:
        """This process's part of the batch of one step, counted from 0."""
        return next(self.steps(step, step + 1))

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps from start to before stop, one after the other."""
        # Worker processes read ahead: what they were told to read waits in the second iterator until its turn.
        to_read, to_use = tee(map(self.positions, range(start, stop)))
        decoded = self.images.batches(torch.cat(list(positions.values())) for positions in to_read)
        stored = zip(range(start, stop), to_use, decoded, strict=True)
        while several := [Stored(*one) for one in islice(stored, self.ahead)]:
            yield from self._batches(several)

    @property
    def ahead(self) -> int:
        """Of how many steps the views are made together: of small images a call costs more than what it does.

        On a GPU the views of a step of CIFAR-10 took as long as the whole rest, for it waited for the next call.
        """
        images = sum(self.sizes[view.source] for view in self.views.values()) // self.world_size
        numbers = max(1, images * math.prod(self.info.input_size))
        return max(1, min(MOST_AHEAD, _NUMBERS.get(torch.device(self.device).type, _NUMBERS["cpu"]) // numbers))

    def positions(self, step: int) -> dict[str, Tensor]:
        """Which training images this process sees at a step: ``labeled`` and ``unlabeled``, where a view needs them."""
        positions: dict[str, Tensor] = {}
        for source, pool in self.pools.items():
            seed, size = self.recipe.seed, self.sizes[source]
            if source == "labeled" and self.members:
                rows = balanced_positions(seed, step, size, self.members)
            else:
                rows = stream_positions(seed, source, step, size, len(pool))
            positions[source] = pool[self._local_rows(rows)]
        return positions

    def _members(self) -> list[list[int]]:
        """Of each class that has labels, where its images stand among the labeled ones."""
        if "labeled" not in self.pools:
            raise InputError(f"sampling=balanced: {self.recipe.method} looks at no labeled images; leave it out")
        labels = self.images.labels.cpu()[self.pools["labeled"]]
        return [torch.nonzero(labels == label).flatten().tolist() for label in labels.unique()]

    def _batches(self, several: Sequence[Stored]) -> Iterator[Batch]:
        """The batches of some steps in a row, whose views are made together."""
        by_source = {
            source: [one.part(source).to(self.device, non_blocking=True) for one in several] for source in self.pools
        }
        together = {source: torch.cat(parts) if len(parts) > 1 else parts[0] for source, parts in by_source.items()}
        views = {}
        for name, view in self.views.items():
            policy, size = self.policies[view.policy], self.sizes[view.source]
            # Drawn for the whole global batch of each step, then cut: see the top of this file.
            random_numbers = torch.cat(
                [
                    self._local_rows(draw_random_numbers(self.recipe.seed, one.step, view, size, policy.num_random))
                    for one in several
                ]
            )
            images = normalize(policy(together[view.source], random_numbers), self.info)
            views[name] = images.split(size // self.world_size)
        for place, one in enumerate(several):
            yield self._batch({name: parts[place] for name, parts in views.items()}, one.positions)

    def _batch(self, inputs: dict[str, Tensor], positions: dict[str, Tensor]) -> Batch:
        labels, indices, labeled_rows = (part.to(self.device, non_blocking=True) for part in self._numbers(positions))
        groups = {name: Group(view.group, view.still) for name, view in self.views.items() if view.group or view.still}
        return Batch(inputs, labels, indices, groups=groups, labeled_rows=labeled_rows, partly_labeled=self.uniform)

    def _numbers(self, positions: Mapping[str, Tensor], *before: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's labels, the positions of its unlabeled images, and which of the labeled ones it has.

        Where the positions are those of several batches, ``before`` says how many.
        """
        none = torch.empty(*before, 0, dtype=torch.int64)
        labeled = positions.get("labeled", none)
        rows = torch.searchsorted(self.labeled, labeled)  # a split's positions are sorted
        if self.uniform:
            rows = rows.where(self.labeled[rows.clamp(max=len(self.labeled) - 1)] == labeled, -1)
        return self.labels[labeled], positions.get("unlabeled", none), rows

    def _local_rows(self, rows: Tensor) -> Tensor:
        """This process's rows of a global batch's."""
        size = len(rows) // self.world_size
        return rows[self.rank * size : (self.rank + 1) * size]
