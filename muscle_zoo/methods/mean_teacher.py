"""Mean Teacher: the network should predict what its averaged weights predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ..losses import SquaredDifference
from ..losses.consistency import to_float32
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share, sigmoid_rampup
from .supervised import Supervised


class MeanTeacher(Method):
    """``H(y, f(x)) + w(t) * squared difference to the teacher`` (Tarvainen and Valpola 2017, arXiv 1703.01780).

    The teacher is the run's EMA model (the recipe's ``ema_decay``), which sees its own weak view in evaluation mode.
    The weight rises as ``exp(-5 (1 - t)^2)``. The defaults are those of the authors' CIFAR-10 experiments
    (github.com/CuriousAI/mean-teacher): weight 100 over 40,000 of 150,000 steps. There the cross-entropy is divided by
    all images of a batch, labeled or not, and the weight is 100 times the share of labeled ones: so against a mean
    over the labeled images, as here, it is 100. Logs ``consistency``.

    Args:
        weight: Highest weight, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.
    """

    views: ClassVar[Mapping[str, View]] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_teacher": View("unlabeled", "weak", 1),
    }

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
        """Asks the teacher; its view needs no forward of the network."""
        inputs = dict(batch.inputs)
        target = to_float32(teacher(inputs.pop("u_teacher"))).softmax(dim=-1)
        return Batch(inputs, batch.labels, batch.indices, {**batch.targets, "teacher": target})

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
        return PseudoLabels(classes, classes >= 0)
