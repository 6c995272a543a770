"""MixMatch: labeled and unlabeled images with pseudo-labels are mixed with each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import SoftCrossEntropy, SquaredDifference, sharpen
from ..losses.consistency import to_float32
from ..losses.mixup import mixup
from .base import (
    Batch,
    Method,
    PseudoLabels,
    RunContext,
    View,
    check_at_least,
    check_share,
    frozen_statistics,
    linear_rampup,
)


class MixMatch(Method):
    """MixMatch (Berthelot et al. 2019, arXiv 1905.02249, algorithm 1).

    The loss is ``H(p', f(x')) + w(t) * mean squared difference of q' and f(u')`` (eq. 3 to 5). The label of an
    unlabeled image is the mean prediction for its two weak views, sharpened; then every image, with its label, is mixed
    with one drawn from all: ``x' = b x1 + (1 - b) x2`` with ``b`` from ``Beta(alpha, alpha)`` and at least one half.
    ``w(t)`` rises linearly over the ramp. Two views, as many unlabeled as labeled images, temperature 0.5, alpha 0.75
    and weight 75 are the paper's for CIFAR-10 (section 4); with more unlabeled images hardly a label would be mixed
    with a label. The paper's ramp is 16,000 of 2^20 steps (``mixmatch.preset=paper``), which are 9 steps of 600: then
    the weight is there before the predictions are right. Permutation and mixing weights are drawn in each
    process for its own images: N processes draw others than one.

    Logs ``cross_entropy``, in nats, and ``consistency`` (the difference without its weight).

    Args:
        alpha: Both parameters of the beta distribution, at least 0.001.
        temperature: Temperature of the sharpening, at least 0.001; 1 leaves the labels as they are.
        weight: Highest weight of the unlabeled loss, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("mixmatch", {"mixmatch": {"weight": 100.0}})
        >>> list(method.views)
        ['x_clean', 'u_clean', 'u_clean_2']
    """

    views: Mapping[str, View] = {
        "x_clean": View("labeled", "weak"),
        "u_clean": View("unlabeled", "weak"),
        "u_clean_2": View("unlabeled", "weak", 1),
    }

    recipe: ClassVar[Mapping[str, int]] = {"mu": 1, "version": 2}
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {"paper": {"ramp": 16000 / 2**20}}

    def __init__(
        self,
        alpha: float = 0.75,
        temperature: float = 0.5,
        weight: float = 75.0,
        ramp: float = 0.4,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("mixmatch.alpha", alpha, 1e-3)
        check_at_least("mixmatch.temperature", temperature, 1e-3)
        check_at_least("mixmatch.weight", weight)
        check_share("mixmatch.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.cross_entropy = SoftCrossEntropy()
        self.difference = SquaredDifference()
        self.alpha, self.temperature, self.weight, self.ramp = alpha, temperature, weight, ramp

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Predicts labels and mixes; the clean images need no forward of their own."""
        inputs = dict(batch.inputs)
        x, u, u_2 = (inputs.pop(name) for name in self.views)
        # The running statistics belong to the mixed images, which the network is trained on.
        with frozen_statistics(model):
            both = to_float32(model(torch.cat([u, u_2]))).softmax(dim=-1)
        pseudo = sharpen((both[: len(u)] + both[len(u) :]) / 2, self.temperature)
        images = torch.cat([x, u, u_2])
        labels = torch.cat([F.one_hot(batch.labels, pseudo.shape[1]).to(pseudo.dtype), pseudo, pseudo])
        mixed, mixed_labels = mixup(images, labels, self.alpha)
        inputs["x_mixed"], inputs["u_mixed"] = mixed.split([len(x), 2 * len(u)])
        targets = dict(zip(("x_mixed", "u_mixed"), mixed_labels.split([len(x), 2 * len(u)]), strict=True))
        return replace(batch, inputs=inputs, targets={**batch.targets, **targets, "pseudo_labels": pseudo})

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the mixed labeled images plus the weighted difference on the others."""
        cross_entropy = self.cross_entropy(batch.targets["x_mixed"], outputs["x_mixed"])
        consistency = self.difference(batch.targets["u_mixed"], outputs["u_mixed"])
        loss = cross_entropy + self.weight * linear_rampup(step, self.context.steps, self.ramp) * consistency
        return {"loss": loss, "cross_entropy": cross_entropy.detach(), "consistency": consistency.detach()}

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes, all of which count."""
        classes = batch.targets["pseudo_labels"].argmax(dim=-1)
        return PseudoLabels(classes, torch.ones_like(classes, dtype=torch.bool))
