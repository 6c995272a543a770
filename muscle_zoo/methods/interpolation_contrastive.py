"""Interpolation-based contrastive learning: between two images embeddings should change linearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..losses import NTXentLoss
from ..losses.consistency import to_float32
from .base import Batch, Method, Outputs, RunContext, View, check_at_least, check_share, linear_rampup
from .supervised import Supervised

_PROJECTION = "projection"


class InterpolationContrastive(Method):
    """Interpolation-based contrastive learning for few labels (Yang et al. 2022, arXiv 2202.11915).

    With two or three labels a class strong views may drift in meaning; so positive pairs are made by interpolation. The
    loss is ``H(y, f(x)) + weight * C(g(b u_1 + (1 - b) u_2), b g(u_1) + (1 - b) g(u_2))``: u_1 and u_2 are weak views
    of two unlabeled images, b is from ``Beta(alpha, alpha)``, g is a projection of the features, and C is
    :class:`muscle_zoo.losses.NTXentLoss`, which tells each pair from those of other images.

    Reconstructed from the paper's abstract (a positive pair by interpolation; a contrastive loss by which embeddings
    change linearly between samples); its other terms and its hyper-parameters could not be read, and there is no public
    code: the values are this project's. Permutation and b are drawn in each process for its own images: N processes
    draw others than one. Logs ``cross_entropy`` and ``contrastive`` (without its weight), in nats.

    Args:
        weight: Highest weight of the contrastive loss, at least 0.
        alpha: Both parameters of the beta distribution, at least 0.001.
        temperature: Of the contrastive loss, at least 0.001.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        size: Numbers in a projection, at least 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("interpolation_contrastive", {"interpolation_contrastive": {"alpha": 0.5}})
        >>> list(method.views)
        ['x_weak', 'u_weak']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"u_weak": (_PROJECTION,), "u_between": (_PROJECTION,)}

    def __init__(
        self,
        weight: float = 1.0,
        alpha: float = 1.0,
        temperature: float = 0.5,
        ramp: float = 0.0,
        size: int = 128,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("interpolation_contrastive.weight", weight)
        check_at_least("interpolation_contrastive.alpha", alpha, 1e-3)
        check_at_least("interpolation_contrastive.temperature", temperature, 1e-3)
        check_share("interpolation_contrastive.ramp", ramp, zero=True)
        check_at_least("interpolation_contrastive.size", size, 1)
        self.context = context or RunContext()
        self.supervised, self.contrastive = Supervised(), NTXentLoss(temperature)
        self.weight, self.alpha, self.ramp, self.size = weight, alpha, ramp, size

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The projection head."""
        hidden = [nn.Linear(context.features, context.features), nn.ReLU()]
        return {_PROJECTION: nn.Sequential(*hidden, nn.Linear(context.features, self.size))}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds images between two."""
        images = batch.inputs["u_weak"]
        share = torch.distributions.Beta(self.alpha, self.alpha).sample((len(images),)).to(images)
        partner = torch.randperm(len(images), device=images.device)
        between = torch.lerp(images[partner], images, share.view(-1, 1, 1, 1))
        targets = {**batch.targets, "share": share, "partner": partner}
        return replace(batch, inputs={**batch.inputs, "u_between": between}, targets=targets)

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted contrastive loss."""
        terms = self.supervised.loss(outputs, batch, step)
        own = to_float32(outputs["u_weak", _PROJECTION])
        share = batch.targets["share"].to(own.dtype).unsqueeze(1)
        contrastive = self.contrastive(
            outputs["u_between", _PROJECTION], share * own + (1.0 - share) * own[batch.targets["partner"]]
        )
        weight = self.weight * linear_rampup(step, self.context.steps, self.ramp)
        terms["loss"] = terms["loss"] + weight * contrastive
        return {**terms, "contrastive": contrastive.detach()}
