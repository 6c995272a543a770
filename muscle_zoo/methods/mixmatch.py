"""MixMatch: labeled and unlabeled images with pseudo-labels are mixed with each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import SoftCrossEntropy, SquaredDifference, sharpen
from ..losses.consistency import to_float32
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
    """``H(p', f(x')) + w(t) * squared difference of q' and f(u')`` (Berthelot et al. 2019, arXiv 1905.02249).

    Labels of unlabeled images are predicted from two weak views and sharpened; then every image is mixed with one drawn
    from all. The defaults are the paper's (section 4): two views, temperature 0.5, alpha 0.75, weight 75 (CIFAR-10),
    which rises linearly over 16,000 of 2^20 steps. Permutation and mixing weights are drawn in each process for its own
    images: N processes draw others than one. Logs ``cross_entropy`` and ``consistency``.

    Args:
        alpha: Both parameters of the beta distribution, above 0.
        temperature: Of the sharpening, above 0.
        weight: Highest weight of the unlabeled loss, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps and classes of the run.

    Raises:
        InputError: An option is out of its range.
    """

    views: ClassVar[Mapping[str, View]] = {
        "x_clean": View("labeled", "weak"),
        "u_clean": View("unlabeled", "weak"),
        "u_clean_2": View("unlabeled", "weak", 1),
    }

    def __init__(
        self,
        alpha: float = 0.75,
        temperature: float = 0.5,
        weight: float = 75.0,
        ramp: float = 16000 / 2**20,
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
        """Guesses labels and mixes; the clean images need no forward of their own."""
        inputs = dict(batch.inputs)
        x, u, u_2 = (inputs.pop(name) for name in self.views)
        with frozen_statistics(model):
            both = to_float32(model(torch.cat([u, u_2]))).softmax(dim=-1)
        pseudo = sharpen((both[: len(u)] + both[len(u) :]) / 2, self.temperature)
        images = torch.cat([x, u, u_2])
        labels = torch.cat([F.one_hot(batch.labels, pseudo.shape[1]).to(pseudo.dtype), pseudo, pseudo])
        beta = torch.distributions.Beta(self.alpha, self.alpha).sample((len(images),)).to(images)
        beta = torch.maximum(beta, 1.0 - beta)
        order = torch.randperm(len(images), device=images.device)
        share_of_own = beta.view(-1, 1, 1, 1)
        mixed = share_of_own * images + (1.0 - share_of_own) * images[order]
        mixed_labels = beta[:, None] * labels + (1.0 - beta[:, None]) * labels[order]
        inputs["x_mixed"], inputs["u_mixed"] = mixed.split([len(x), 2 * len(u)])
        targets = dict(zip(("x_mixed", "u_mixed"), mixed_labels.split([len(x), 2 * len(u)]), strict=True))
        return Batch(inputs, batch.labels, batch.indices, {**batch.targets, **targets, "pseudo_labels": pseudo})

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the mixed labeled images plus the weighted difference on the others."""
        cross_entropy = self.cross_entropy(batch.targets["x_mixed"], outputs["x_mixed"])
        consistency = self.difference(batch.targets["u_mixed"], outputs["u_mixed"])
        loss = cross_entropy + self.weight * linear_rampup(step, self.context.steps, self.ramp) * consistency
        return {"loss": loss, "cross_entropy": cross_entropy.detach(), "consistency": consistency.detach()}

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes, all of which count."""
        classes = batch.targets["pseudo_labels"].argmax(dim=-1)
        return PseudoLabels(classes, classes >= 0)
