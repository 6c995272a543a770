"""SoftMatch: every pseudo-label counts, the less the less sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.consistency import to_float32
from ..losses.distributed import rows_of_all_processes
from ..losses.distribution_alignment import align_distribution
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class SoftMatch(Method):
    """SoftMatch (Chen et al. 2023, arXiv 2301.10921).

    The loss is ``H(y, f(x)) + weight * w(u) H(argmax f(alpha(u)), f(A(u)))``. The weight of an image is a Gaussian of
    its confidence c, ``exp(-(c - mu)^2 / (2 sigma^2 / sigmas^2))`` below the mean mu and 1 above it; mean and variance
    are averages over the steps. Uniform alignment: the confidence is that of the prediction divided by the mean
    prediction, the pseudo-label is the prediction's own. The paper's formula has no ``sigmas``; 2 is the value of the
    authors' code (github.com/microsoft/Semi-supervised-learning), which is followed, also in bringing the averages up
    to date before they are used; its mean prediction begins as the first batch's, here as equal shares. Statistics are
    of the global batch. Logs ``cross_entropy``, ``pseudo_label`` (without its weight), both in nats, ``mask``, the mean
    weight, and ``mean``, mu.

    Args:
        momentum: Share of an average that a step keeps, 0 to 1.
        sigmas: How many standard deviations below the mean the weight has fallen as a Gaussian has after one, above 0.
        weight: Weight of the unlabeled loss, at least 0.
        context: Classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("softmatch", {"softmatch": {"momentum": 0.99}}, RunContext(num_classes=2))
        >>> method.weights(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
        [1.0, 1.0]
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    partly_labeled: ClassVar[bool] = True

    mean: Tensor
    variance: Tensor
    prediction: Tensor

    def __init__(
        self, momentum: float = 0.999, sigmas: float = 2.0, weight: float = 1.0, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_share("softmatch.momentum", momentum, zero=True)
        check_at_least("softmatch.sigmas", sigmas, 1e-3)
        check_at_least("softmatch.weight", weight)
        classes = (context or RunContext()).num_classes
        self.supervised = Supervised()
        self.momentum, self.sigmas, self.weight = momentum, sigmas, weight
        self.register_buffer("mean", torch.tensor(1.0 / classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("prediction", torch.full((classes,), 1.0 / classes))

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Brings the averages up to date, then cross-entropy and the pseudo-label loss."""
        terms = self.supervised.loss(outputs, batch, step)
        predictions = to_float32(outputs["u_weak"].detach()).softmax(dim=-1)
        self._update(predictions)
        weights = self.weights(predictions)
        losses = F.cross_entropy(to_float32(outputs["u_strong"]), predictions.argmax(dim=-1), reduction="none")
        unlabeled = (weights * losses).mean()
        terms["loss"] = terms["loss"] + self.weight * unlabeled
        terms["pseudo_label"] = unlabeled.detach()
        return {**terms, "mask": weights.mean(), "mean": self.mean.clone()}

    def weights(self, predictions: Tensor) -> Tensor:
        """What each image counts, ``(n,)``, of predictions ``(n, C)``: 0 to 1."""
        confidence = align_distribution(predictions, self.prediction).amax(dim=-1)
        below = (confidence - self.mean).clamp(max=0.0)
        return torch.exp(-below.square() * self.sigmas**2 / (2.0 * self.variance.clamp(min=1e-12)))

    @torch.no_grad()
    def _update(self, predictions: Tensor) -> None:
        everybodys = rows_of_all_processes(predictions.to(self.prediction.dtype))
        self.prediction.lerp_(everybodys.mean(dim=0), 1.0 - self.momentum)
        confidence = align_distribution(everybodys, self.prediction).amax(dim=-1)
        self.mean.lerp_(confidence.mean(), 1.0 - self.momentum)
        self.variance.lerp_(confidence.var(correction=min(1, len(confidence) - 1)), 1.0 - self.momentum)

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view; those that count at least half are said to count."""
        predictions = to_float32(outputs["u_weak"].detach()).softmax(dim=-1)
        return PseudoLabels(predictions.argmax(dim=-1), self.weights(predictions) >= 0.5)
