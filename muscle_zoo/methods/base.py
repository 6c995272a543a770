"""What a method is: the views it names, an optional ``prepare``, and a ``loss``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from ..errors import InputError


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


@dataclass(frozen=True)
class Setting:
    """What a method may know of the run it is part of. The defaults are FixMatch's on CIFAR-10.

    Attributes:
        steps: Of the whole run.
        images: Training images, labelled or not: ``Batch.indices`` are below it.
        num_classes: Classes.
    """

    steps: int = 2**20
    images: int = 50000
    num_classes: int = 10


class Guess(NamedTuple):
    """What a method made of a step's unlabelled images: their classes ``(n,)``, and which of them it used ``(n,)``."""

    classes: Tensor
    used: Tensor


class Method(Protocol):
    """The contract every method fulfils: one ``nn.Module`` in one file, no other parent.

    ``views`` names the views it needs. The engine makes them, calls ``prepare`` if there is one (without main-graph
    gradients), runs ONE forward on the concatenated inputs, splits the logits by name, and calls ``loss``. What a
    method keeps from step to step are its buffers: they are saved and resumed with the run.

    Its constructor takes its options, with defaults, and ``setting``, a :class:`Setting`.

    A method may also have ``prepare(batch, model, teacher, step) -> Batch``, which returns the batch with guessed
    labels in ``targets``, or with inputs added or removed (only those it named itself under a name of its own: another
    may need ``u_weak``); and ``guess(outputs, batch) -> Guess``, by which the log tells how good its guesses are.
    """

    views: dict[str, View]

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar to minimise, other name: detached scalar to log, ...}``."""
        ...


def check_at_least(option: str, value: float, least: float = 0.0) -> None:
    """Refuses an option that is too small.

    Raises:
        InputError: It is.
    """
    if not value >= least:
        raise InputError(f"{option}={value} is below {least:g}; give {least:g} or more")


def check_share(option: str, value: float, zero: bool = False) -> None:
    """Refuses an option that is not above 0 (or 0, where that is allowed) and at most 1.

    Raises:
        InputError: It is not.
    """
    if not 0.0 <= value <= 1.0 or (value == 0.0 and not zero):
        low = "at least" if zero else "more than"
        raise InputError(f"{option}={value} is out of range; give {low} 0 and at most 1")


def rising(step: int, steps: int, share: float) -> float:
    """From 0 to 1 over a share of the steps, as ``exp(-5 (1 - t)^2)`` (Laine and Aila 2017, section 2.1)."""
    return math.exp(-5.0 * (1.0 - linear(step, steps, share)) ** 2)


def linear(step: int, steps: int, share: float) -> float:
    """From 0 to 1 over a share of the steps, linearly; 1 where the share is 0."""
    return min(1.0, step / (share * steps)) if share * steps > 0 else 1.0


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalise with the batch's statistics as in training, and leaves its running ones alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def guess(method: nn.Module, outputs: dict[str, Tensor], batch: Batch) -> Guess | None:
    """What the method made of the unlabelled images, if it says so."""
    own = getattr(method, "guess", None)
    return None if own is None else own(outputs, batch)


def prepare(method: nn.Module, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
    """Runs the method's ``prepare`` where it has one; the batch as it is otherwise."""
    own = getattr(method, "prepare", None)
    return batch if own is None else own(batch, model, teacher, step)
