"""AdaMatch: FixMatch with a threshold relative to the labeled images, and both batches' BatchNorm for these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import PseudoLabelLoss
from ..losses.consistency import to_float32
from ..losses.distributed import mean_over_processes
from ..losses.distribution_alignment import align_distribution
from .base import Batch, Group, Method, PseudoLabels, RunContext, View, check_at_least, check_share


class AdaMatch(Method):
    """AdaMatch for semi-supervised learning (Berthelot et al. 2022, arXiv 2106.04732, section 3 and appendix).

    The labeled images, weak and strong, go through the network twice: together with the unlabeled ones, and by
    themselves, with running statistics left alone; their logits are a random point between both, drawn for each number
    (random logit interpolation). On these the loss is the mean cross-entropy of both views. Unlabeled images: the weak
    view's prediction is aligned, times the mean prediction of labeled images and divided by that of unlabeled ones;
    its class is the label of the strong view where its probability is at least ``threshold`` times the labeled images'
    mean confidence. The weight rises as ``(1 - cos(2 pi t)) / 2`` in the first half of the run, and stays.

    Followed is the authors' code (github.com/google-research/adamatch, semi_supervised): the paper's mean predictions
    are those of a batch, the code's an average over the steps for labeled and over the last 128 for unlabeled images;
    here both are averages over the steps. The interpolation is drawn in each process for its own images: N processes
    draw others than one. Logs ``cross_entropy``, ``pseudo_label`` (without its weight), in nats, ``mask``, the share of
    unlabeled images that count, and ``threshold``, the step's.

    Args:
        threshold: Factor of the labeled images' mean confidence, above 0 and at most 1.
        weight: Highest weight of the unlabeled loss, at least 0.
        ramp: Share of the steps over which it rises, 0 to 1.
        momentum: Share of an average that a step keeps, 0 to 1.
        context: Steps and classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("adamatch", {"adamatch": {"weight": 2.0}}, RunContext(steps=100))
        >>> [round(method.weight_at(step), 2) for step in (0, 25, 50, 99)]
        [0.0, 1.0, 2.0, 2.0]
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "x_strong": View("labeled", "strong"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }

    p_labeled: Tensor
    p_unlabeled: Tensor
    relative: Tensor

    def __init__(
        self,
        threshold: float = 0.9,
        weight: float = 1.0,
        ramp: float = 0.5,
        momentum: float = 0.999,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("adamatch.threshold", threshold)
        check_at_least("adamatch.weight", weight)
        check_share("adamatch.ramp", ramp, zero=True)
        check_share("adamatch.momentum", momentum, zero=True)
        self.context = context or RunContext()
        self.pseudo_label = PseudoLabelLoss()
        self.threshold, self.weight, self.ramp, self.momentum = threshold, weight, ramp, momentum
        classes = self.context.num_classes
        self.register_buffer("p_labeled", torch.full((classes,), 1.0 / classes))
        self.register_buffer("p_unlabeled", torch.full((classes,), 1.0 / classes))
        self.register_buffer("relative", torch.tensor(threshold))  # the last step's threshold

    def weight_at(self, step: int) -> float:
        """The weight of the unlabeled loss at a step, counted from 0."""
        ramp = self.ramp * self.context.steps
        return self.weight * (0.5 - 0.5 * math.cos(math.pi * min(1.0, step / ramp)) if ramp else 1.0)

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Has the labeled images go through the network a second time, by themselves."""
        alone = {f"{name}_alone": batch.inputs[name] for name in ("x_weak", "x_strong")}
        groups = {**batch.groups, **dict.fromkeys(alone, Group(2, still=True))}
        return replace(batch, inputs={**batch.inputs, **alone}, groups=groups)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the interpolated logits plus the weighted pseudo-label loss."""
        weak, strong = (self._interpolated(outputs[name], outputs[f"{name}_alone"]) for name in ("x_weak", "x_strong"))
        cross_entropy = (F.cross_entropy(weak, batch.labels) + F.cross_entropy(strong, batch.labels)) / 2
        self._update(weak.detach(), outputs["u_weak"].detach())
        aligned = self._aligned(outputs["u_weak"]).log()  # whose softmax is itself
        unlabeled, mask = self.pseudo_label(aligned, outputs["u_strong"], self.relative.expand(aligned.shape[1]))
        loss = cross_entropy + self.weight_at(step) * unlabeled
        terms = {"loss": loss, "cross_entropy": cross_entropy.detach(), "pseudo_label": unlabeled.detach()}
        return {**terms, "mask": mask.mean(), "threshold": self.relative.clone()}

    @staticmethod
    def _interpolated(together: Tensor, alone: Tensor) -> Tensor:
        together, alone = to_float32(together), to_float32(alone)
        return together + torch.rand_like(together) * (alone - together)

    @torch.no_grad()
    def _update(self, labeled: Tensor, unlabeled: Tensor) -> None:
        """Brings the mean predictions and the threshold up to date."""
        p_labeled, p_unlabeled = (z.to(self.p_labeled.dtype).softmax(dim=-1) for z in (labeled, unlabeled))
        confidence = p_labeled.amax(dim=-1).mean().view(1)
        # One reduction for the three statistics: each would wait for the other processes.
        means = mean_over_processes(torch.cat([confidence, p_labeled.mean(dim=0), p_unlabeled.mean(dim=0)]))
        confidence, of_labeled, of_unlabeled = means.split([1, len(self.p_labeled), len(self.p_labeled)])
        self.p_labeled.lerp_(of_labeled, 1.0 - self.momentum)
        self.p_unlabeled.lerp_(of_unlabeled, 1.0 - self.momentum)
        self.relative.copy_(self.threshold * confidence[0])

    @torch.no_grad()
    def _aligned(self, logits: Tensor) -> Tensor:
        return align_distribution(to_float32(logits).softmax(dim=-1), self.p_unlabeled, self.p_labeled)

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The classes of the weak view's aligned prediction, and which of them count."""
        confidence, classes = self._aligned(outputs["u_weak"]).max(dim=-1)
        return PseudoLabels(classes, confidence >= self.relative)
