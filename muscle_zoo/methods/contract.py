"""What a method is: the views it names, an optional ``prepare``, and a ``loss``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn


class View(NamedTuple):
    """One augmented version of the labelled or the unlabelled images of a step.

    Two views with the same source and policy and different ``draw`` are two independent draws.
    """

    source: Literal["labelled", "unlabelled"]
    policy: Literal["weak", "strong"]
    draw: int = 0


@dataclass(frozen=True)
class Batch:
    """The images of one step, as one process sees them.

    Attributes:
        inputs: Name of a view (or of an input that ``prepare`` added) to normalised images, ``(n, C, H, W)``. All go
            through one forward, in this order.
        labels: Classes of the labelled images, ``(B,)`` int64.
        indices: Which images of the unlabelled pool these are, ``(mu B,)`` int64.
        targets: What ``prepare`` worked out for ``loss``: guessed labels, mixing weights.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    targets: dict[str, Tensor] = field(default_factory=dict)

    def parts(self, n: int) -> list[Batch]:
        """Cuts a batch without targets into n of equal size, each with its share of every view."""
        views = {name: images.chunk(n) for name, images in self.inputs.items()}
        labels = self.labels.chunk(n)
        indices = self.indices.chunk(n) if len(self.indices) else [self.indices] * n
        return [Batch({name: chunks[i] for name, chunks in views.items()}, labels[i], indices[i]) for i in range(n)]


class Method(Protocol):
    """The contract every method fulfils: one ``nn.Module`` in one file, no other parent.

    ``views`` names the views it needs. The engine makes them, calls ``prepare`` if there is one (without main-graph
    gradients), runs ONE forward on the concatenated inputs, splits the logits by name, and calls ``loss``. What a
    method keeps from step to step are its buffers: they are saved and resumed with the run.

    A method may also have ``prepare(batch, model, teacher, step) -> Batch``, which returns the batch with guessed
    labels in ``targets``, or with inputs added or replaced.
    """

    views: dict[str, View]

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar to minimise, other name: detached scalar to log, ...}``."""
        ...


def prepare(method: nn.Module, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
    """Runs the method's ``prepare`` where it has one; the batch as it is otherwise."""
    own = getattr(method, "prepare", None)
    return batch if own is None else own(batch, model, teacher, step)
