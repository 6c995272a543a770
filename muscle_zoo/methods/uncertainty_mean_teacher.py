"""Uncertainty-aware mean teacher: the network should predict what its averaged weights predict and are sure of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses.consistency import to_float32
from ..losses.distributed import mean_over_processes
from .base import (
    Batch,
    Method,
    PseudoLabels,
    RunContext,
    View,
    check_at_least,
    check_share,
    sigmoid_rampup,
    training_mode,
)
from .supervised import Supervised


class UncertaintyMeanTeacher(Method):
    """UA-MT (Yu et al. 2019, arXiv 1907.07034), on classification.

    As Mean Teacher, but for images of which the teacher is unsure. It is asked ``passes`` times more, with dropout and
    noise on the images (Monte-Carlo dropout); the uncertainty is the entropy of the mean prediction. The loss
    is ``H(y, f(x)) + w(t) * sum 1[entropy < h(t)] d / sum 1[entropy < h(t)]``, where d is the mean squared
    difference over the classes, and ``h(t)`` rises from ``share`` to 1 times ln C, the largest entropy. The teacher is
    the run's EMA model with the statistics of the batch; dropout is the recipe's ``drop_rate``, 0.5 by default here as
    in the paper: without it only the noise is left.

    The paper is about voxels of segmented images, with a weight of 0.1 on the same mean beside a loss of segmentation:
    here weight and ramp are Mean Teacher's. Followed is the authors' code (github.com/yulequan/UA-MT): 8 passes, noise
    of standard deviation 0.1 cut at 0.2, share 0.75; d's teacher sees such noise there, here another weak view. Noise
    and dropout are drawn in each process for its own images: N processes draw others than one. Logs
    ``cross_entropy``, in nats, ``consistency`` (without its weight) and ``mask``, the share of unlabeled images that
    count.

    Args:
        weight: Highest weight, at least 0.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        passes: How often the teacher is asked for its uncertainty, at least 1.
        noise: Standard deviation of the noise on normalized images, at least 0.
        share: Of the largest entropy, which is the threshold at the first step, 0 to 1.
        context: Steps and classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("uncertainty_mean_teacher", context=RunContext(steps=100, num_classes=10))
        >>> round(method.threshold_at(0), 2), round(method.threshold_at(100), 2)
        (1.73, 2.3)
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_teacher": View("unlabeled", "weak", 1),
    }
    recipe: ClassVar[Mapping[str, float]] = {"drop_rate": 0.5}

    def __init__(
        self,
        weight: float = 100.0,
        ramp: float = 40 / 150,
        passes: int = 8,
        noise: float = 0.1,
        share: float = 0.75,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("uncertainty_mean_teacher.weight", weight)
        check_share("uncertainty_mean_teacher.ramp", ramp, zero=True)
        check_at_least("uncertainty_mean_teacher.passes", passes, 1)
        check_at_least("uncertainty_mean_teacher.noise", noise)
        check_share("uncertainty_mean_teacher.share", share, zero=True)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.weight, self.ramp, self.passes, self.noise, self.share = weight, ramp, passes, noise, share

    def threshold_at(self, step: int) -> float:
        """h(t), in nats, at a step, counted from 0."""
        rise = (1.0 - self.share) * sigmoid_rampup(step, self.context.steps, 1.0)
        return (self.share + rise) * math.log(self.context.num_classes)

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds the teacher's predictions, and which of them it is sure of."""
        inputs = dict(batch.inputs)
        images = inputs.pop("u_teacher")
        with training_mode(teacher):  # dropout, and statistics of the batch as the student's
            target = to_float32(teacher(images)).softmax(dim=-1)
            passes = [to_float32(teacher(self._noisy(images))).softmax(dim=-1) for _ in range(self.passes)]
        mean = torch.stack(passes).mean(dim=0)
        entropy = -torch.special.xlogy(mean, mean).sum(dim=-1)
        is_sure = (entropy < self.threshold_at(step)).to(target.dtype)
        return replace(batch, inputs=inputs, targets={**batch.targets, "teacher": target, "sure": is_sure})

    def _noisy(self, images: Tensor) -> Tensor:
        return images + (self.noise * torch.randn_like(images)).clamp(-2.0 * self.noise, 2.0 * self.noise)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted difference on images that the teacher is sure of."""
        terms = self.supervised.loss(outputs, batch, step)
        target, is_sure = batch.targets["teacher"], batch.targets["sure"]
        differences = (target - to_float32(outputs["u_weak"]).softmax(dim=-1)).square().mean(dim=-1)
        share = mean_over_processes(is_sure.mean())
        consistency = (is_sure * differences).mean() / share.clamp(min=1e-12)
        terms["loss"] = terms["loss"] + self.weight * sigmoid_rampup(step, self.context.steps, self.ramp) * consistency
        return {**terms, "consistency": consistency.detach(), "mask": is_sure.mean()}

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The teacher's classes, and which of them it is sure of."""
        return PseudoLabels(batch.targets["teacher"].argmax(dim=-1), batch.targets["sure"] > 0)
