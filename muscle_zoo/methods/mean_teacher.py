"""Mean Teacher: the network should predict what its averaged weights predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses import SquaredDifference
from ..losses.consistency import to_float32
from .base import (
    Batch,
    Method,
    PseudoLabels,
    RunContext,
    View,
    check_at_least,
    check_share,
    sigmoid_rampup,
    training_mode,
)
from .supervised import Supervised


class MeanTeacher(Method):
    """Mean Teacher (Tarvainen and Valpola 2017, arXiv 1703.01780).

    The loss is ``H(y, f(x)) + w(t) * mean squared difference of f(u) and the teacher's prediction for u'``, where u and
    u' are two weak views of an image. The teacher is the run's EMA model (the recipe's ``ema_decay``), in training mode
    as the student: with the statistics of the batch, and dropout of its own. ``w(t)`` rises as ``exp(-5 (1 - t)^2)``
    over the ramp. The defaults are those of the authors' CIFAR-10 experiments
    (github.com/CuriousAI/mean-teacher): weight 100, rising over 40,000 of 150,000 steps. There the
    cross-entropy is divided by all images of a batch, labeled or not, and the weight is 100 times the share of labeled
    ones: so against a mean over the labeled images, as here, it is 100. Logs ``cross_entropy``, in nats, and
    ``consistency`` (the difference without its weight).

    Args:
        weight: Highest weight, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("mean_teacher", {"mean_teacher": {"weight": 10.0}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_teacher']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_teacher": View("unlabeled", "weak", 1),
    }
    partly_labeled: ClassVar[bool] = True

    recipe: ClassVar[Mapping[str, int]] = {"version": 2}

    def __init__(self, weight: float = 100.0, ramp: float = 40 / 150, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("mean_teacher.weight", weight)
        check_share("mean_teacher.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.difference = SquaredDifference()
        self.weight = weight
        self.ramp = ramp

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds the teacher's predictions; the teacher's view needs no forward of the network."""
        inputs = dict(batch.inputs)
        # With running statistics the teacher's outputs differ from the student's by more than the weights do, and a
        # weight of 100 makes the student learn that difference: it ended below supervised training (version 1).
        with training_mode(teacher):
            target = to_float32(teacher(inputs.pop("u_teacher"))).softmax(dim=-1)
        return replace(batch, inputs=inputs, targets={**batch.targets, "teacher": target})

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted difference."""
        terms = self.supervised.loss(outputs, batch, step)
        consistency = self.difference(batch.targets["teacher"], outputs["u_weak"])
        weight = self.weight * sigmoid_rampup(step, self.context.steps, self.ramp)
        terms["loss"] = terms["loss"] + weight * consistency
        terms["consistency"] = consistency.detach()
        return terms

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The teacher's classes, all of which count."""
        classes = batch.targets["teacher"].argmax(dim=-1)
        return PseudoLabels(classes, torch.ones_like(classes, dtype=torch.bool))
