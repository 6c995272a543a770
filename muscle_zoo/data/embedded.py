"""Embeddings in the place of images: their views, and the batches of a step.

An embedding is an image of one pixel and as many channels as it has numbers, ``(n, D, 1, 1)``, so whatever takes images
takes embeddings. They are standardized where images are normalized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..methods.base import Batch, Group, View
from .batches import MOST_AHEAD, Batches, draw_random_numbers, seeded_generator
from .images import ImageFiles, ImageSource, LabeledImages

_BLOCK = 1024  # images whose random numbers are drawn together


def fingerprint(images: ImageSource) -> str:
    """What tells images from others: sha256 of the pixels in memory; of pictures in files names, sizes and dates.

    Classes are not part of it.
    """
    digest = hashlib.sha256()
    if isinstance(images, LabeledImages):
        digest.update(f"{tuple(images.images.shape)}\n".encode())
        for chunk in images.images.split(4096):
            digest.update(chunk.cpu().contiguous().numpy().tobytes())
    elif isinstance(images, ImageFiles):
        digest.update(f"{images.input_size}\n".encode())
        for name in images.names:
            state = (images.root / name).stat()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    else:
        raise InputError(f"{type(images).__name__}: only images in memory or in files can be embedded")
    return digest.hexdigest()


def cached_random_numbers(policy: str, draw: int, start: int, stop: int, count: int) -> Tensor:
    """Uniform numbers for one cached draw of some images: pure functions of the policy, the draw and the position.

    They are the same for every run, whatever its seed: an embedding is made once. Which draw a step sees is the run's.

    Args:
        policy: The policy's text.
        draw: Counted from 0.
        start: Position of the first image.
        stop: Position after the last one.
        count: Numbers for each image.

    Returns:
        ``(stop - start, count)`` float32 in 0..1.
    """
    blocks = range(start // _BLOCK, -(-stop // _BLOCK))
    drawn = [torch.rand(_BLOCK, count, generator=seeded_generator("embedding", policy, draw, b)) for b in blocks]
    first = blocks.start * _BLOCK
    return torch.cat(drawn)[start - first : stop - first] if drawn else torch.empty(0, count)


def _empty(rows: int, width: int, device: torch.device) -> Tensor:
    """Float32 memory; numpy asks the system for large pages, in which a row is found faster than in torch's."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty((rows, width), np.float32))
    return torch.empty(rows, width, device=device)


@dataclass(frozen=True)
class EmbeddedImages:
    """Embeddings of images, and of some draws of their views; they are handed out standardized, in float32.

    Attributes:
        plain: Of the images as they are, ``(N, D)``.
        labels: ``(N,)`` int64.
        mean: What is subtracted from each number, ``(D,)`` float32.
        std: What it is divided by.
        draws: By policy (``weak``, ``strong``) the embeddings of each draw, ``(N, D)``, as the cache has them.
        ready: All draws of all policies ``(K N, D)``, standardized, where there is memory, see :meth:`prepared`.
        names: What each image is called; empty where they have no names.
    """

    plain: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    draws: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    ready: Tensor | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each batch of positions the plain embeddings, ``(n, D, 1, 1)``."""
        for batch in positions:
            yield self._standardized(self.plain[batch])[:, :, None, None]

    def rows(self, policy: str, draw: Tensor, positions: Tensor) -> Tensor:
        """Where embeddings of images stand among all draws of all policies, each image in a draw of its own.

        Args:
            policy: ``weak`` or ``strong``.
            draw: ``(n,)`` int64, below the number of draws.
            positions: ``(n,)`` int64.

        Returns:
            ``(n,)`` int64, for :meth:`take`.
        """
        before = list(self.draws).index(policy)
        first = sum(len(draws) for draws in list(self.draws.values())[:before])
        return (draw + first) * len(self) + positions

    def take(self, rows: Tensor) -> Tensor:
        """Embeddings ``(n, D, 1, 1)`` at :meth:`rows`, all in one piece of memory."""
        if self.ready is not None:
            return self.ready.index_select(0, rows.to(self.ready.device, non_blocking=True))[:, :, None, None]
        draws = self._all_draws
        numbers, positions = rows // len(self), rows % len(self)
        out = draws[0].new_empty(len(rows), draws[0].shape[1])
        for number in numbers.unique().tolist():
            own = torch.nonzero(numbers == number).flatten()
            out[own] = draws[number][positions[own]]
        return self._standardized(out)[:, :, None, None]

    @property
    def _all_draws(self) -> list[Tensor]:
        return [draw for draws in self.draws.values() for draw in draws]

    def with_policies(self, policies: Collection[str]) -> EmbeddedImages:
        """The same embeddings with the draws of some policies: those that a method's views name.

        Those that are prepared keep all draws, for several methods share them.
        """
        if self.ready is not None:
            return self
        return replace(self, draws={name: draws for name, draws in self.draws.items() if name in policies})

    def _standardized(self, embeddings: Tensor) -> Tensor:
        return (
            embeddings.float().sub_(self.mean).div_(self.std)
            if embeddings.dtype != torch.float32
            else ((embeddings - self.mean).div_(self.std))
        )

    def prepared(self, device: torch.device, memory: int) -> EmbeddedImages:
        """The same embeddings, and all draws standardized on a device if they take at most so many bytes there.

        It saves a step the reading and the arithmetic; the numbers are the same to the last bit.
        """
        draws = self._all_draws
        if self.ready is not None or not draws or sum(4 * draw.numel() for draw in draws) > memory:
            return self
        ready = _empty(len(draws) * len(self), self.plain.shape[1], device)
        for number, draw in enumerate(draws):
            for rows in torch.arange(len(self)).split(8192):
                start = number * len(self) + int(rows[0])
                ready[start : start + len(rows)] = self._standardized(draw[rows]).to(device)
        return replace(self, ready=ready)

    def subset(self, positions: Sequence[int]) -> EmbeddedImages:
        """The plain embeddings of some of the images, in the order given."""
        index = torch.as_tensor(positions, dtype=torch.int64)
        names = tuple(self.names[i] for i in positions) if self.names else ()
        return replace(self, plain=self.plain[index], labels=self.labels[index], draws={}, ready=None, names=names)

    def with_labels(self, labels: Tensor) -> EmbeddedImages:
        """The same embeddings with other classes."""
        return replace(self, labels=labels)


class _Plan(NamedTuple):
    """What a batch is made of: the rows of its views one after the other, how many each has, and as in a Batch."""

    rows: Tensor
    sizes: dict[str, int]
    labels: Tensor
    indices: Tensor
    labeled_rows: Tensor


@dataclass
class EmbeddedBatches(Batches):
    """Makes the batch of any step from cached embeddings: which images, and which draws of them.

    Two views of the same policy are different draws of an image. As with images, all is a pure function of (seed, step,
    position in the global batch).

    Raises:
        InputError: The method needs more draws of a policy than there are.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.images, EmbeddedImages)
        self.embedded = self.images
        self.groups = {name: Group(view.group, view.still) for name, view in self.views.items()}
        for name, view in self.views.items():
            if view.draw >= (there := len(self.embedded.draws.get(view.policy, ()))):
                raise InputError(
                    f"embedding_views={there}: {self.recipe.method} compares {view.draw + 1} {view.policy} draws of an "
                    f"image ({name}); give {view.draw + 1} or more"
                )

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps from start to before stop, one after the other."""
        # What some steps in a row see is worked out together: these things are small, so that a call costs more than
        # what it does, above all between the large tensors of two steps, where nothing is found near the processor.
        for first in range(start, stop, MOST_AHEAD):
            for plan in self._plans(range(first, min(first + MOST_AHEAD, stop))):
                yield self._embedded_batch(plan)

    def _plans(self, steps: range) -> list[_Plan]:
        """What the batches of some steps are made of."""
        by_step = [self.positions(step) for step in steps]
        positions = {source: torch.stack([own[source] for own in by_step]) for source in by_step[0]}
        orders: dict[tuple[str, str], Tensor] = {}
        rows = {}
        for name, view in self.views.items():
            kind = (view.source, view.policy)
            if kind not in orders:
                orders[kind] = self._draws_in_order(view, steps)
            rows[name] = self.embedded.rows(view.policy, orders[kind][:, :, view.draw], positions[view.source])
        sizes = {name: own.shape[1] for name, own in rows.items()}
        together = torch.cat(list(rows.values()), dim=1)
        numbers = zip(*self._numbers(positions, len(steps)), strict=True)
        return [_Plan(own, sizes, *more) for own, more in zip(together, numbers, strict=True)]

    def _draws_in_order(self, view: View, steps: range) -> Tensor:
        """The draws of each image of a view's source in some steps ``(steps, n, draws)``, in the order they are used.

        It is one order for all draws of an image, so that no two of its views are the same.
        """
        count = len(self.embedded.draws[view.policy])
        seed, first, size = self.recipe.seed, view._replace(draw=0), self.sizes[view.source]
        numbers = [self._local_rows(draw_random_numbers(seed, step, first, size, count)) for step in steps]
        return torch.stack(numbers).argsort(dim=2, stable=True)

    def _embedded_batch(self, plan: _Plan) -> Batch:
        # The views lie one after the other: what goes through the classifier together need not be copied together.
        together = self.embedded.take(plan.rows).to(self.device, non_blocking=True)
        inputs = dict(zip(plan.sizes, together.split(list(plan.sizes.values())), strict=True))
        labels, indices, labeled_rows = (part.to(self.device, non_blocking=True) for part in plan[2:])
        batch = Batch(inputs, labels, indices, groups=self.groups, labeled_rows=labeled_rows)
        return replace(batch, partly_labeled=True) if self.uniform else batch
