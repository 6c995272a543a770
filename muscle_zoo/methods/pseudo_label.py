"""Pseudo-label: the predicted class of an unlabeled image is its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..losses import PseudoLabelLoss
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share, linear_rampup
from .supervised import Supervised


class PseudoLabel(Method):
    """Pseudo-Label (Lee 2013, ICML workshop on challenges in representation learning).

    The loss is ``H(y, f(x)) + a(t) * 1[max f(u) >= threshold] H(argmax f(u), f(u))``: the same weak view gives the
    label and is trained with it. ``a(t)`` is 0 before ``start``, then rises linearly over ``ramp``. The
    paper has no threshold, and weight 3, which rises from epoch 100 to 600; the number of all epochs, which it does
    not give, is taken to be 1,000 by ``pseudo_label.preset=paper``. The defaults are those of
    github.com/microsoft/Semi-supervised-learning: threshold 0.95, weight 1, rising over the first 0.4 of the run. Logs
    ``cross_entropy``, ``pseudo_label`` (the second term without its weight), both in nats, and ``mask``, the share of
    unlabeled images that count.

    Args:
        threshold: Least probability at which a pseudo-label counts, 0 to 1; 0 for all.
        weight: Highest weight of the unlabeled loss, at least 0.
        start: Share of the steps before which the weight is 0, 0 to 1.
        ramp: Share of the steps over which it then rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("pseudo_label", {"pseudo_label": {"start": 0.5, "ramp": 0.2}}, RunContext(steps=10))
        >>> [round(method.weight_at(step), 2) for step in (0, 5, 6, 7, 9)]
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    partly_labeled: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "paper": {"threshold": 0.0, "weight": 3.0, "start": 0.1, "ramp": 0.5}
    }

    def __init__(
        self,
        threshold: float = 0.95,
        weight: float = 1.0,
        start: float = 0.0,
        ramp: float = 0.4,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("pseudo_label.threshold", threshold, zero=True)
        check_at_least("pseudo_label.weight", weight)
        check_share("pseudo_label.start", start, zero=True)
        check_share("pseudo_label.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.supervised, self.pseudo_label = Supervised(), PseudoLabelLoss(threshold)
        self.weight, self.start, self.ramp = weight, start, ramp

    def weight_at(self, step: int) -> float:
        """a(t) at a step, counted from 0."""
        begun = step - self.start * self.context.steps
        return 0.0 if begun < 0 else self.weight * linear_rampup(max(begun, 0.0), self.context.steps, self.ramp)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted pseudo-label loss."""
        terms = self.supervised.loss(outputs, batch, step)
        unlabeled, mask = self.pseudo_label(outputs["u_weak"], outputs["u_weak"])
        terms["loss"] = terms["loss"] + self.weight_at(step) * unlabeled
        return {**terms, "pseudo_label": unlabeled.detach(), "mask": mask.mean()}

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes, and which of them count."""
        classes, mask = self.pseudo_label.pseudo_labels(outputs["u_weak"])
        return PseudoLabels(classes, mask > 0)
