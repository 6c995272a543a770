"""VAT: the prediction should not change in the direction in which it would change most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses import Divergence, Entropy
from ..losses.consistency import to_float32
from .base import (
    Batch,
    Group,
    Method,
    RunContext,
    View,
    check_at_least,
    check_share,
    frozen_statistics,
    linear_rampup,
    same_dropout,
)
from .supervised import Supervised


class VAT(Method):
    """Virtual adversarial training with entropy minimization (Miyato et al. 2018, arXiv 1704.03976).

    The loss is ``H(y, f(x)) + w(t) * KL(f(u) || f(u + r)) + entropy_weight * H(f(u))`` (eq. 10 adds the last term).
    ``r`` has length ``epsilon sqrt(C H W)``, a share of a normalized image's own length, and the direction that power
    iteration gives (section 3.3, algorithm 1), with the BatchNorm statistics of these images and one dropout for all
    passes. Labeled, unlabeled and adversarial images are normalized each by themselves, and the running statistics are
    those of the labeled ones, as in the authors' code. ``w(t)`` rises linearly over the ramp.

    Weight 0.3, its ramp of 0.4 and entropy weight 0.06 are those of Oliver et al. 2018 (arXiv 1804.09170); their
    epsilon of 6 on images between -1 and 1 is a share of about 0.21. The weights 1 and 1 without a ramp of the paper
    (section 4) are for thousands of labels (``vat.preset=paper``): at one label a class its entropy term makes
    the network sure of whatever it guessed. One iteration is the paper's; its xi of 1e-6 is lost in float32, so xi is
    1e-3 here. The first direction is drawn in each process for its own images: N processes draw others than one.

    Logs ``cross_entropy``, ``consistency`` (the divergence) and ``entropy``, both without their weights, in nats.

    Args:
        epsilon: Length of the perturbation as a share of an image's, at least 0.
        weight: Highest weight of the divergence, at least 0.
        entropy_weight: Weight of the entropy, at least 0; 0 is VAT without it.
        xi: Length of the step from which the direction is estimated, above 0.
        iterations: Iterations of the power method, at least 1.
        ramp: Share of the steps over which the weight of the divergence rises, 0 to 1.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("vat", {"vat": {"epsilon": 0.1}})
        >>> list(method.views)
        ['x_weak', 'u_weak']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak", group=1, still=True),
    }
    partly_labeled: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, int]] = {"version": 2}
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "paper": {"weight": 1.0, "entropy_weight": 1.0, "ramp": 0.0}
    }

    def __init__(
        self,
        epsilon: float = 0.21,
        weight: float = 0.3,
        entropy_weight: float = 0.06,
        xi: float = 1e-3,
        iterations: int = 1,
        ramp: float = 0.4,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("vat.epsilon", epsilon)
        check_at_least("vat.weight", weight)
        check_at_least("vat.entropy_weight", entropy_weight)
        check_at_least("vat.xi", xi, 1e-12)
        check_at_least("vat.iterations", iterations, 1)
        check_share("vat.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.divergence = Divergence()
        self.entropy = Entropy()
        self.epsilon, self.weight, self.entropy_weight = epsilon, weight, entropy_weight
        self.xi, self.iterations, self.ramp = xi, iterations, ramp

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds the perturbed images."""
        images = batch.inputs["u_weak"]
        # xi needs float32: neither half precision nor a GPU's 10-bit convolutions tell so near points apart.
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.autocast(images.device.type, enabled=False), precise, frozen_statistics(model):
            direction = self.direction(images, model)
        adversarial = images + self.epsilon * math.sqrt(images[0].numel()) * direction
        return replace(
            batch,
            inputs={**batch.inputs, "u_adversarial": adversarial},
            groups={**batch.groups, "u_adversarial": Group(2, still=True)},
        )

    def direction(self, images: Tensor, model: nn.Module) -> Tensor:
        """The direction in which the prediction changes most, of length 1 for each image (algorithm 1)."""
        direction = _of_length_1(torch.randn_like(images))
        with same_dropout(images.device):
            target = model(images).softmax(dim=-1).detach()
        for _ in range(self.iterations):
            with torch.enable_grad(), same_dropout(images.device):
                perturbation = (self.xi * direction).requires_grad_()
                divergence = self.divergence(target, model(images + perturbation))
                direction = _of_length_1(torch.autograd.grad(divergence, perturbation)[0])
        return direction

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted divergence and entropy."""
        terms = self.supervised.loss(outputs, batch, step)
        consistency = self.divergence(to_float32(outputs["u_weak"]).softmax(dim=-1), outputs["u_adversarial"])
        entropy = self.entropy(outputs["u_weak"])
        weight = self.weight * linear_rampup(step, self.context.steps, self.ramp)
        terms["loss"] = terms["loss"] + weight * consistency + self.entropy_weight * entropy
        terms["consistency"] = consistency.detach()
        terms["entropy"] = entropy.detach()
        return terms


def _of_length_1(vectors: Tensor) -> Tensor:
    flat = vectors.flatten(1)
    # Scaled by the largest number first: the squares of gradients of 1e-20 would vanish.
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(vectors)
