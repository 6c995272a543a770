"""VAT: the prediction should not change in the direction in which it would change most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..losses import Divergence, Entropy
from ..losses.consistency import to_float32
from .base import Batch, Method, RunContext, View, check_at_least, frozen_statistics
from .supervised import Supervised


class VAT(Method):
    """Virtual adversarial training with entropy minimization (Miyato et al. 2018, arXiv 1704.03976).

    The loss is ``H(y, f(x)) + weight * KL(f(u) || f(u + r)) + entropy_weight * H(f(u))`` (eq. 10 adds the last term).
    ``r`` has length ``epsilon``, in units of the normalized image, and the direction that power iteration gives
    (section 3.3, algorithm 1), with the BatchNorm statistics of these images. Weights 1 and one iteration are the
    paper's (section 4); its xi of 1e-6 is lost in float32, so xi is 1e-3 here; epsilon 6 is what Oliver et al. 2018
    (arXiv 1804.09170) give for CIFAR-10 after whitening, which is another scale than mean and deviation. The first
    direction is drawn in each process for its own images: N processes draw others than one.

    Logs ``cross_entropy``, ``consistency`` (the divergence) and ``entropy``, both without their weights, in nats.

    Args:
        epsilon: Length of the perturbation, at least 0.
        weight: Weight of the divergence, at least 0.
        entropy_weight: Weight of the entropy, at least 0; 0 is VAT without it.
        xi: Length of the step from which the direction is estimated, above 0.
        iterations: Iterations of the power method, at least 1.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("vat", {"vat": {"epsilon": 2.0}})
        >>> list(method.views)
        ['x_weak', 'u_weak']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}

    def __init__(
        self,
        epsilon: float = 6.0,
        weight: float = 1.0,
        entropy_weight: float = 1.0,
        xi: float = 1e-3,
        iterations: int = 1,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("vat.epsilon", epsilon)
        check_at_least("vat.weight", weight)
        check_at_least("vat.entropy_weight", entropy_weight)
        check_at_least("vat.xi", xi, 1e-12)
        check_at_least("vat.iterations", iterations, 1)
        self.supervised = Supervised()
        self.divergence = Divergence()
        self.entropy = Entropy()
        self.epsilon, self.weight, self.entropy_weight = epsilon, weight, entropy_weight
        self.xi, self.iterations = xi, iterations

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds the perturbed images."""
        images = batch.inputs["u_weak"]
        # xi needs float32: neither half precision nor a GPU's 10-bit convolutions tell so near points apart.
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.autocast(images.device.type, enabled=False), precise, frozen_statistics(model):
            direction = self.direction(images, model)
        return Batch(
            {**batch.inputs, "u_adversarial": images + self.epsilon * direction},
            batch.labels,
            batch.indices,
            batch.targets,
        )

    def direction(self, images: Tensor, model: nn.Module) -> Tensor:
        """The direction in which the prediction changes most, of length 1 for each image (algorithm 1)."""
        target = model(images).softmax(dim=-1).detach()
        direction = _of_length_1(torch.randn_like(images))
        for _ in range(self.iterations):
            with torch.enable_grad():
                perturbation = (self.xi * direction).requires_grad_()
                divergence = self.divergence(target, model(images + perturbation))
                direction = _of_length_1(torch.autograd.grad(divergence, perturbation)[0])
        return direction

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted divergence and entropy."""
        terms = self.supervised.loss(outputs, batch, step)
        consistency = self.divergence(to_float32(outputs["u_weak"]).softmax(dim=-1), outputs["u_adversarial"])
        entropy = self.entropy(outputs["u_weak"])
        terms["loss"] = terms["loss"] + self.weight * consistency + self.entropy_weight * entropy
        terms["consistency"] = consistency.detach()
        terms["entropy"] = entropy.detach()
        return terms


def _of_length_1(vectors: Tensor) -> Tensor:
    flat = vectors.flatten(1)
    # Scaled by the largest number first: the squares of gradients of 1e-20 would vanish.
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(vectors)
