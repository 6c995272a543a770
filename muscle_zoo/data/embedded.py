"""Embeddings in the place of images: their views, and the batches of a step.

An embedding is an image of one pixel and as many channels as it has numbers, ``(n, D, 1, 1)``, and the mean and standard
deviation of a :class:`DataSetInfo` standardize it as they do an image. So whatever takes images takes embeddings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..methods.base import Batch, Group
from .batches import Batches, draw_random_numbers, seeded_generator
from .images import ImageFiles, ImageSource, LabeledImages
from .normalization import normalize

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


@dataclass(frozen=True)
class EmbeddedImages:
    """Embeddings of images, and of some draws of their views; mapped into memory, or on a device.

    Attributes:
        plain: Of the images as they are, ``(N, D)``, float16 or float32.
        labels: ``(N,)`` int64.
        draws: By policy (``weak``, ``strong``) the embeddings of each draw, ``(N, D)``.
        names: What each image is called; empty where they have no names.
    """

    plain: Tensor
    labels: Tensor
    draws: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """What all embeddings take in memory."""
        return self.plain.nbytes + sum(draw.nbytes for draws in self.draws.values() for draw in draws)

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each batch of positions the plain embeddings, ``(n, D, 1, 1)``."""
        for batch in positions:
            yield self.plain.index_select(0, batch.to(self.plain.device))[:, :, None, None]

    def view(self, policy: str, draw: Tensor, positions: Tensor) -> Tensor:
        """Embeddings ``(n, D, 1, 1)`` of images, each in a draw of its own.

        Args:
            policy: ``weak`` or ``strong``.
            draw: ``(n,)`` int64, below the number of draws, on the CPU.
            positions: ``(n,)`` int64, on the CPU.
        """
        draws = self.draws[policy]
        out = draws[0].new_empty(len(positions), draws[0].shape[1])
        for number, embeddings in enumerate(draws):
            rows = torch.nonzero(draw == number).flatten()
            out.index_copy_(
                0, rows.to(out.device), embeddings.index_select(0, positions[rows].to(out.device))
            )
        return out[:, :, None, None]

    def subset(self, positions: Sequence[int]) -> EmbeddedImages:
        """The plain embeddings of some of the images, in the order given."""
        index = torch.as_tensor(positions, dtype=torch.int64)
        names = tuple(self.names[i] for i in positions) if self.names else ()
        return EmbeddedImages(self.plain[index.to(self.plain.device)], self.labels[index], {}, names)

    def with_labels(self, labels: Tensor) -> EmbeddedImages:
        """The same embeddings with other classes."""
        return replace(self, labels=labels)

    def to(self, device: torch.device) -> EmbeddedImages:
        """The same embeddings on another device; the classes stay."""
        draws = {policy: tuple(draw.to(device) for draw in draws) for policy, draws in self.draws.items()}
        return replace(self, plain=self.plain.to(device), draws=draws)


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
        for name, view in self.views.items():
            if view.draw >= (there := len(self.embedded.draws.get(view.policy, ()))):
                raise InputError(
                    f"embedding_views={there}: {self.recipe.method} compares {view.draw + 1} {view.policy} draws of an "
                    f"image ({name}); give {view.draw + 1} or more"
                )

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps from start to before stop, one after the other."""
        for step in range(start, stop):
            yield self._embedded_batch(step, self.positions(step))

    def _embedded_batch(self, step: int, positions: dict[str, Tensor]) -> Batch:
        orders: dict[tuple[str, str], Tensor] = {}
        inputs = {}
        for name, view in self.views.items():
            kind = (view.source, view.policy)
            if kind not in orders:
                count = len(self.embedded.draws[view.policy])
                first = view._replace(draw=0)  # one order for all draws of an image, so that no two are the same
                numbers = draw_random_numbers(self.recipe.seed, step, first, self.sizes[view.source], count)
                orders[kind] = self._local_rows(numbers).argsort(dim=1, stable=True)
            embeddings = self.embedded.view(view.policy, orders[kind][:, view.draw], positions[view.source])
            inputs[name] = normalize(embeddings.to(self.device, non_blocking=True), self.info)
        labels = self.images.labels[positions["labeled"]].to(self.device, non_blocking=True)
        indices = positions.get("unlabeled", torch.empty(0, dtype=torch.int64)).to(self.device, non_blocking=True)
        groups = {name: Group(view.group, view.still) for name, view in self.views.items() if view.group or view.still}
        return Batch(inputs, labels, indices, groups=groups)
