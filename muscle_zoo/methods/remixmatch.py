"""ReMixMatch: MixMatch with distribution alignment, augmentation anchoring, and a rotation loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import SoftCrossEntropy, sharpen
from ..losses.consistency import to_float32
from ..losses.distributed import mean_over_processes
from ..losses.distribution_alignment import align_distribution
from ..losses.mixup import mixup
from ..losses.pretext import LEVELS, turn
from .base import (
    LOGITS,
    Batch,
    Method,
    Outputs,
    PseudoLabels,
    RunContext,
    View,
    check_at_least,
    check_share,
    frozen_statistics,
    linear_rampup,
)

_ROTATION = "rotation"


class ReMixMatch(Method):
    """ReMixMatch (Berthelot et al. 2020, arXiv 1911.09785).

    The label of an unlabeled image is the prediction for its weak view, aligned (times the share of each class among
    the labels, divided by the mean prediction) and sharpened; its weak view and its ``copies`` strong ones are anchored
    to that label. These and the strong views of labeled images are mixed with each other as in MixMatch. The loss is
    ``H(p', f(x')) + w(t) mix_weight H(q', f(u')) + w(t) weight H(q, f(A(u))) + rotation_weight H(r, g(A(u) turned by
    r))``: of the mixed images, of one strong view that is not mixed, and of the same turned, where g is a linear head
    on the features. ``w(t)`` rises linearly over the ramp. Followed is the authors' code
    (github.com/google-research/remixmatch); their mean prediction is that of the last 128 batches, here an average over
    the steps, as is the labels' (decay 0.999 there), and the views are the recipe's instead of CTAugment's. The paper's
    copies and ramp (``remixmatch.preset=paper``) are 8 and 2^14 of 2^20 steps. Permutation and mixing weights are drawn
    in each process for its own images: N processes draw others than one.

    Logs ``cross_entropy``, ``mixed``, ``anchored`` and ``rotation``, all without their weights, in nats.

    Args:
        alpha: Both parameters of the beta distribution, at least 0.001.
        temperature: Of the sharpening, at least 0.001.
        mix_weight: Highest weight of the mixed unlabeled images, at least 0.
        weight: Highest weight of the strong views that are not mixed, at least 0.
        rotation_weight: Weight of the rotation loss, at least 0.
        copies: Strong views of an unlabeled image, at least 1.
        ramp: Share of the steps over which the weights rise, 0 to 1.
        momentum: Share of the mean prediction that a step keeps, 0 to 1.
        context: Steps and classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("remixmatch", {"remixmatch": {"copies": 3}})
        >>> list(method.views)
        ['x_clean', 'u_clean', 'u_strong', 'u_anchored_1', 'u_anchored_2']
    """

    views: Mapping[str, View] = {
        "x_clean": View("labeled", "strong"),
        "u_clean": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    needs: Mapping[str, Sequence[str]] = {"u_strong": (LOGITS,), "u_turned": (_ROTATION,)}
    recipe: ClassVar[Mapping[str, int]] = {"mu": 1}
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {"paper": {"copies": 8, "ramp": 2**14 / 2**20}}

    p_labeled: Tensor
    p_unlabeled: Tensor

    def __init__(
        self,
        alpha: float = 0.75,
        temperature: float = 0.5,
        mix_weight: float = 1.5,
        weight: float = 0.5,
        rotation_weight: float = 0.5,
        copies: int = 2,
        ramp: float = 0.4,
        momentum: float = 0.99,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("remixmatch.alpha", alpha, 1e-3)
        check_at_least("remixmatch.temperature", temperature, 1e-3)
        for name, value in (("mix_weight", mix_weight), ("weight", weight), ("rotation_weight", rotation_weight)):
            check_at_least(f"remixmatch.{name}", value)
        check_at_least("remixmatch.copies", copies, 1)
        check_share("remixmatch.ramp", ramp, zero=True)
        check_share("remixmatch.momentum", momentum, zero=True)
        self.context = context or RunContext()
        self.cross_entropy = SoftCrossEntropy()
        self.alpha, self.temperature, self.ramp, self.momentum = alpha, temperature, ramp, momentum
        self.mix_weight, self.weight, self.rotation_weight = mix_weight, weight, rotation_weight
        anchored = {f"u_anchored_{copy}": View("unlabeled", "strong", copy) for copy in range(1, copies)}
        self.views = {**type(self).views, **anchored}
        classes = self.context.num_classes
        self.register_buffer("p_labeled", torch.full((classes,), 1.0 / classes))
        self.register_buffer("p_unlabeled", torch.full((classes,), 1.0 / classes))

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The head that tells the angle."""
        return {_ROTATION: nn.Linear(context.features, LEVELS)}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Predicts labels, mixes, and turns; but for one strong view no image goes through the network unmixed."""
        inputs = dict(batch.inputs)
        strong = inputs["u_strong"]
        x, u, *anchored = (inputs.pop(name) for name in self.views if name != "u_strong")
        # The running statistics belong to the mixed images, which the network is trained on.
        with frozen_statistics(model):
            predictions = to_float32(model(u)).softmax(dim=-1)
        aligned = align_distribution(predictions, self.p_unlabeled, self.p_labeled)
        pseudo = sharpen(aligned, self.temperature)
        labels = F.one_hot(batch.labels, pseudo.shape[1]).to(pseudo.dtype)
        self._update(labels, predictions)
        unlabeled = [u, strong, *anchored]
        mixed, targets = mixup(
            torch.cat([x, *unlabeled]), torch.cat([labels, *[pseudo] * len(unlabeled)]), alpha=self.alpha
        )
        inputs["x_mixed"], inputs["u_mixed"] = mixed[: len(x)], mixed[len(x) :]
        angles = (batch.indices + step) % LEVELS  # of the image and the step, so that it is turned otherwise next time
        inputs["u_turned"] = turn(strong, angles)
        own = {"x_mixed": targets[: len(x)], "u_mixed": targets[len(x) :], "pseudo_labels": pseudo, "angles": angles}
        return replace(batch, inputs=inputs, targets={**batch.targets, **own})

    def _update(self, labels: Tensor, predictions: Tensor) -> None:
        means = torch.stack([labels.mean(dim=0), predictions.mean(dim=0)]).to(self.p_labeled.dtype)
        of_labels, of_predictions = mean_over_processes(means)
        self.p_labeled.lerp_(of_labels, 1.0 - self.momentum)
        self.p_unlabeled.lerp_(of_predictions, 1.0 - self.momentum)

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """The four cross-entropies, weighted."""
        targets = batch.targets
        cross_entropy = self.cross_entropy(targets["x_mixed"], outputs["x_mixed"])
        mixed = self.cross_entropy(targets["u_mixed"], outputs["u_mixed"])
        anchored = self.cross_entropy(targets["pseudo_labels"], outputs["u_strong"])
        rotation = F.cross_entropy(to_float32(outputs["u_turned", _ROTATION]), targets["angles"])
        ramp = linear_rampup(step, self.context.steps, self.ramp)
        unlabeled = ramp * (self.mix_weight * mixed + self.weight * anchored) + self.rotation_weight * rotation
        terms = {"cross_entropy": cross_entropy, "mixed": mixed, "anchored": anchored, "rotation": rotation}
        return {"loss": cross_entropy + unlabeled, **{name: term.detach() for name, term in terms.items()}}

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The predicted classes, all of which count."""
        classes = batch.targets["pseudo_labels"].argmax(dim=-1)
        return PseudoLabels(classes, torch.ones_like(classes, dtype=torch.bool))
