"""The Pi-model: two noisy passes over an image should agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..losses import SquaredDifference
from ..losses.consistency import to_float32
from .base import Batch, Method, RunContext, View, check_at_least, check_share, sigmoid_rampup
from .supervised import Supervised


class PiModel(Method):
    """The Pi-model (Laine and Aila 2017, arXiv 1610.02242, algorithm 1).

    The loss is ``H(y, f(x)) + w(t) * mean squared difference of f(u) and f(u')``, where u and u' are two weak views of
    an image. Both passes carry gradients, each with its own dropout. ``w(t)`` rises as ``exp(-5 (1 - t)^2)`` over the
    ramp. The defaults are the paper's (section 3): weight 100 over 80 of 300 epochs. In the paper the cross-entropy is
    divided by all images of a batch, labeled or not, and the weight is 100 times the share of labeled ones: so against
    a mean over the labeled images, as here, it is 100. Logs ``cross_entropy``, in nats, and ``consistency`` (the
    difference without its weight).

    Args:
        weight: Highest weight, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("pi_model", {"pi_model": {"ramp": 0.0}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_second']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_second": View("unlabeled", "weak", 1),
    }
    partly_labeled: ClassVar[bool] = True

    def __init__(self, weight: float = 100.0, ramp: float = 80 / 300, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("pi_model.weight", weight)
        check_share("pi_model.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.difference = SquaredDifference()
        self.weight = weight
        self.ramp = ramp

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted difference."""
        terms = self.supervised.loss(outputs, batch, step)
        consistency = self.difference(to_float32(outputs["u_second"]).softmax(dim=-1), outputs["u_weak"])
        weight = self.weight * sigmoid_rampup(step, self.context.steps, self.ramp)
        terms["loss"] = terms["loss"] + weight * consistency
        terms["consistency"] = consistency.detach()
        return terms
