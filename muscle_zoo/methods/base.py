"""What a method is: the views it names, what it prepares, and its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError

LOGITS, FEATURES, TEACHER = "logits", "features", "teacher"  # what may be computed of an input, beside a method's parts
# Logits by name of the input, and what else is computed of it by (name, what): ("u_weak", "features").
Outputs = dict[Any, Tensor]


class View(NamedTuple):
    """One augmented version of the labeled or the unlabeled images of a step.

    Two views with the same source and policy and different ``draw`` are two independent draws. ``group`` and ``still``
    say with which other inputs they go through the network, see :class:`Group`.
    """

    source: Literal["labeled", "unlabeled"]
    policy: Literal["weak", "strong"]
    draw: int = 0
    group: int = 0
    still: bool = False


class Group(NamedTuple):
    """Inputs of one group share a forward, and BatchNorm normalizes them together.

    With ``still`` they leave the running statistics alone, which are used for evaluation: virtual adversarial images,
    say, are none that a network will be asked about. All groups of a step draw the same numbers for dropout.
    """

    number: int = 0
    still: bool = False


@dataclass(frozen=True)
class Batch:
    """The images of one step, as one process sees them.

    Attributes:
        inputs: Name of a view (or of an input that ``prepare`` added) to normalized images, ``(n, C, H, W)``. Those of
            a group go through one forward, in this order.
        labels: Classes of the labeled images, ``(B,)`` int64; empty where no view is of labeled images. -1 for one that
            has no label, where they are ``partly_labeled``.
        indices: Which images of the unlabeled pool these are, ``(mu B,)`` int64.
        targets: What ``prepare`` worked out for ``loss``: pseudo-labels, mixing weights.
        groups: The group of an input; the first one (0) for those without an entry.
        labeled_rows: Which of the labeled images the labels are of, counted among these, ``(B,)`` int64.
        partly_labeled: Whether the labeled images are any of the pool, and some of them, or all, have no label.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    targets: dict[str, Tensor] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    labeled_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    partly_labeled: bool = False

    def micro_batches(self, n: int) -> list[Batch]:
        """Cuts a batch without targets into n of equal size, each with its share of every view."""
        if n == 1:
            return [self]
        views = {name: images.chunk(n) for name, images in self.inputs.items()}
        labels = self.labels.chunk(n) if len(self.labels) else [self.labels] * n
        indices = self.indices.chunk(n) if len(self.indices) else [self.indices] * n
        rows = self.labeled_rows.chunk(n) if len(self.labeled_rows) else [self.labeled_rows] * n
        return [
            replace(
                self,
                inputs={name: chunks[i] for name, chunks in views.items()},
                labels=labels[i],
                indices=indices[i],
                labeled_rows=rows[i],
            )
            for i in range(n)
        ]


@dataclass(frozen=True)
class RunContext:
    """What a method may know of the run it is part of. The defaults are FixMatch's on CIFAR-10.

    Attributes:
        steps: Of the whole run.
        images: Training images, labeled or not: ``Batch.indices`` are below it.
        num_classes: Classes.
        features: Numbers in the network's pre-logits features; known when ``parts`` is called, 0 before.
        labeled: Labeled images: ``Batch.labeled_rows`` are below it.
        unlabeled: Images of the unlabeled pool.
        mean: What each channel of pixels between 0 and 1 is lessened by before a method sees it.
        std: What it is then divided by.
        label_counts: Labeled images of each class, with the labels that the method is shown.
    """

    steps: int = 2**20
    images: int = 50000
    num_classes: int = 10
    features: int = 0
    labeled: int = 4000
    unlabeled: int = 50000
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    label_counts: tuple[int, ...] = (400,) * 10


class PseudoLabels(NamedTuple):
    """The classes a method gave the unlabeled images of a step ``(n,)``, and which of them it used ``(n,)``."""

    classes: Tensor
    mask: Tensor


class Nets(Protocol):
    """What :meth:`Method.backward` may ask of the engine. The networks are those of the run, without any wrapper.

    Attributes:
        model: The network that is trained.
        lr: The learning rate of the step.
    """

    model: nn.Module
    lr: float

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar to those that the optimizer takes; once a step."""

    def gradients(self, loss: Tensor) -> Tensor:
        """The gradient of a scalar with respect to the network's own trained parameters, ``(P,)``, as one vector.

        Those of a method's parts are left out. It is the mean over the processes; what was computed is kept for another
        pass back.
        """


class Method(nn.Module):
    """What every method is: one class in one file, with a ``loss`` and, where it needs them, the optional parts below.

    The loop knows no method by name. It makes the ``views`` a method names, calls :meth:`prepare`, runs a gradient
    forward on all inputs of a group together, splits the logits by name, and calls :meth:`loss`. What a method keeps
    from step to step are its buffers: they are saved and resumed with the run. It may have no parameters, for nothing
    would train them: what is to be trained beside the network it gives as :meth:`parts`. Its constructor takes its
    options, all with defaults, and ``context``, a :class:`RunContext`.

    Attributes:
        views: The views it needs, by the name under which ``loss`` finds their logits.
        recipe: What it changes of a recipe's defaults: ``{"mu": 1}``, or ``version``, which goes up with every change
            of the code that changes what it trains.
        presets: What named sets of its options change of the defaults, for ``NAME.preset=paper`` in a recipe. Every
            method has ``paper``; here it says which of the paper's values are other ones.
        needs: What is computed of an input, by its name: ``logits`` (``outputs[name]``, and all that is computed of an
            input without an entry), ``features`` (``outputs[name, "features"]``, before the classifier), the name of
            one of its :meth:`parts` (``outputs[name, part]``), or ``teacher`` (``outputs[name, "teacher"]``, the logits
            of the recipe's ``teacher`` for the same images). Nothing else is computed.
        classifier: Whether the network it trains has one. A method that is given no label has none: it pre-trains.
        partly_labeled: Whether it looks at labels through :class:`Supervised` alone, which can do without some.
        pixels: Whether it changes pixels within their bounds: such a method cannot be given embeddings.
    """

    views: Mapping[str, View] = {}
    needs: Mapping[str, Sequence[str]] = {}
    classifier: ClassVar[bool] = True
    partly_labeled: ClassVar[bool] = False
    pixels: ClassVar[bool] = False
    recipe: ClassVar[Mapping[str, int | float | str]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, float | str]]] = {}

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """Heads on the network's pre-logits features ``(n, context.features)``, which are trained with it.

        They are averaged, saved and resumed as the network is, and left out of what is exported. They are drawn from
        the recipe's seed.

        Args:
            context: What the method was made with, and the number of features.

        Returns:
            Modules by name; by default none.
        """
        return {}

    def fit(self, labeled: Tensor, labels: Tensor, unlabeled: Tensor, num_classes: int) -> nn.Module | None:
        """A classifier of embeddings that is made at once, by a method whose ``recipe`` has ``steps`` 0, ``tune`` head.

        Args:
            labeled: Standardized embeddings of the labeled images, ``(n, D)``.
            labels: Their classes, ``(n,)`` int64.
            unlabeled: Those of the unlabeled pool, ``(m, D)``.
            num_classes: C.

        Returns:
            ``(n, D)`` to logits ``(n, C)``; a plain ``nn.Linear`` is exported with the network. None, the default, for
            a method that takes steps.
        """
        return None

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Works out what the loss needs before the forward: pseudo-labels, mixed images, adversarial directions.

        It runs without gradients. It may add and remove inputs, but only those that it named itself, under names that
        no other method has: MUSCLE around it may need ``u_weak``, so a view that is used up here and needs no
        forward is called ``u_clean``, say (see ``mixmatch.py``).

        Args:
            batch: As the views were made.
            model: The network in training mode, without the wrapper that shares gradients between processes. Called
                with images it gives logits, whether or not the method has parts.
            teacher: The averaged weights of the run, in evaluation mode; not the recipe's ``teacher``.
            step: Counted from 0.

        Returns:
            The batch that goes through the forward; by default the same one.
        """
        return batch

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """The terms of a step.

        Args:
            outputs: Logits ``(n, C)`` by the name of the input, and what else it ``needs`` by name and what it is.
            batch: As :meth:`prepare` returned it.
            step: Counted from 0.

        Returns:
            ``{"loss": scalar to minimize, other name: detached scalar to log, ...}``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def backward(self, terms: dict[str, Tensor], nets: Nets) -> None:
        """Works out the gradients of a step; by default those of ``terms["loss"]``.

        A method whose gradients are not those of one scalar, or depend on each other, has its own. Its other terms may
        then have gradients too. It must end with :meth:`Nets.backward`, once, and cannot go with ``accumulate``.

        Args:
            terms: What :meth:`loss` returned; ``loss`` may hold what another method around this one added.
            nets: The run's network.
        """
        nets.backward(terms["loss"])

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels | None:
        """The classes it gave the unlabeled images, so that the log tells how many are right; None if it gives none."""
        return None


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


def sigmoid_rampup(step: float, steps: int, share: float) -> float:
    """From 0 to 1 over a share of the steps, as ``exp(-5 (1 - t)^2)`` (Laine and Aila 2017, section 2.1)."""
    return math.exp(-5.0 * (1.0 - linear_rampup(step, steps, share)) ** 2)


def linear_rampup(step: float, steps: int, share: float) -> float:
    """From 0 to 1 over a share of the steps, linearly; 1 where the share is 0."""
    return min(1.0, step / (share * steps)) if share * steps > 0 else 1.0


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Runs a model as in training (statistics of the batch, dropout), and leaves it as it was, BatchNorm's too."""
    was_training = model.training
    model.train()
    try:
        with frozen_statistics(model):
            yield
    finally:
        model.train(was_training)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Leaves each part's mode as it was, for parts of a network may be frozen in another than the whole."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def same_dropout(device: torch.device) -> Iterator[None]:
    """Takes back what is drawn inside, so that the next pass through a network draws the same dropout once more.

    Two passes with different dropout differ by more than the images do, where these differ by little: the direction
    that virtual adversarial training looks for would be that of the dropout.
    """
    others = [device] if device.type in ("cuda", "xpu") else []  # beside the CPU
    with torch.random.fork_rng(others, device_type=others[0].type if others else "cuda"):
        yield


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalize with the batch's statistics as in training, and leaves its running ones alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
