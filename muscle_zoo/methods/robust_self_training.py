"""Robust self-training: pseudo-labels, and predictions that hold for the worst image near each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..losses.consistency import to_float32
from ..losses.projected_gradient import Ball, projected_gradient
from .base import (
    LOGITS,
    TEACHER,
    Batch,
    Group,
    Method,
    Outputs,
    PseudoLabels,
    RunContext,
    View,
    check_at_least,
    check_share,
    evaluation_mode,
)

_NOISE = 0.001  # deviation of the start from the image, where the divergence has no slope
_VIEWS = ("x_weak", "u_weak")


class RobustSelfTraining(Method):
    """Robust self-training (Carmon et al. 2019, arXiv 1905.13736), in its adversarial form.

    The loss is ``H(y, f(x)) + beta R(x) + weight (H(y', f(u)) + beta R(u))`` with ``R(x) = KL(f(x) || f(x'))``, the
    stability term of TRADES (Zhang et al. 2019, arXiv 1901.08573). x' is within ``epsilon`` of x in every pixel's
    channel, and within 0..1: projected gradient ascent of the divergence finds it, from x and a little noise (within
    0..1 too; in the authors' code only the later images are), with the network in evaluation mode. Gradients flow
    through both sides of R. The paper's batches hold as many labeled as pseudo-labeled images; then this is twice its
    loss at weight 1.

    In the paper y' are the classes of a finished network that was trained in the ordinary way: the recipe's
    ``teacher`` with ``labels=teacher`` (``robust_self_training.preset=paper``). By default one run does both: the
    averaged weights give y', after a share ``start`` of the steps in which the network learns from the labels alone,
    and where they are as sure as ``threshold``; R counts from the first step. The views are the recipe's weak ones.
    Epsilon, step, iterations and beta are those of the paper's CIFAR-10 experiments. The noise is drawn in each process
    for its own images: N processes draw others than one.

    Logs ``cross_entropy``, ``pseudo_label`` and ``stability`` (R over all images), without their weights, in nats, and
    ``mask``, the share of unlabeled images whose y' counts.

    Args:
        epsilon: Greatest change of a pixel's channel, 0 to 1, where white is 1.
        step_size: Of each iteration, above 0.
        iterations: Of the ascent, at least 1.
        beta: Weight of the stability term, at least 0.
        weight: Weight of the unlabeled images, at least 0.
        threshold: Least probability at which a pseudo-label counts, 0 to 1; 0 for all.
        start: Share of the steps before which no pseudo-label counts, 0 to 1.
        labels: Who gives pseudo-labels: ``ema``, the run's averaged weights, or ``teacher``, the recipe's.
        context: Steps of the run, and how its images are normalized.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("robust_self_training", {"robust_self_training": {"labels": "teacher"}})
        >>> method.needs["u_weak"]
        ('logits', 'teacher')
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    pixels: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, float | str]]] = {
        "paper": {"labels": "teacher", "threshold": 0.0, "start": 0.0}
    }

    def __init__(
        self,
        epsilon: float = 8 / 255,
        step_size: float = 0.007,
        iterations: int = 10,
        beta: float = 6.0,
        weight: float = 1.0,
        threshold: float = 0.8,
        start: float = 0.1,
        labels: str = "ema",
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("robust_self_training.epsilon", epsilon, zero=True)
        check_at_least("robust_self_training.step_size", step_size, 1e-6)
        check_at_least("robust_self_training.iterations", iterations, 1)
        check_at_least("robust_self_training.beta", beta)
        check_at_least("robust_self_training.weight", weight)
        check_share("robust_self_training.threshold", threshold, zero=True)
        check_share("robust_self_training.start", start, zero=True)
        if labels not in ("ema", "teacher"):
            raise InputError(f"robust_self_training.labels={labels} is unknown; give ema or teacher")
        self.context = context or RunContext()
        self.epsilon, self.step_size, self.iterations, self.beta = epsilon, step_size, iterations, beta
        self.weight, self.threshold, self.start = weight, threshold, start
        self.taught = labels == "teacher"
        self.needs: Mapping[str, Sequence[str]] = {"u_weak": (LOGITS, TEACHER)} if self.taught else {}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Adds the adversarial images of both views, and what the averaged weights take the unlabeled ones for."""
        images = torch.cat([batch.inputs[name] for name in _VIEWS])
        with torch.autocast(images.device.type, enabled=False), evaluation_mode(model):  # half precision has no slope
            adversarial = self.adversarial(images, model)
        targets = batch.targets if self.taught else {**batch.targets, "teacher": teacher(batch.inputs["u_weak"])}
        return replace(
            batch,
            inputs={**batch.inputs, "adversarial": adversarial},
            groups={**batch.groups, "adversarial": Group(1)},  # the authors' code runs them by themselves, too
            targets=targets,
        )

    def adversarial(self, images: Tensor, model: nn.Module) -> Tensor:
        """The images near normalized ones whose prediction is farthest from theirs, as the ascent finds them."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.context.mean, self.context.std))
        ball = Ball(self.epsilon / std, -mean / std, (1.0 - mean) / std)
        target = to_float32(model(images)).softmax(dim=-1)

        def divergence(moved: Tensor) -> Tensor:  # up to the target's entropy
            return -(target * to_float32(model(moved)).log_softmax(dim=-1)).sum()

        start = images + _NOISE / std * torch.randn_like(images)
        return projected_gradient(divergence, images, start, ball, self.step_size / std, self.iterations)

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on labels and pseudo-labels, and the stability of both."""
        logits = {name: to_float32(outputs[name]) for name in _VIEWS}
        sizes = [len(logits[name]) for name in _VIEWS]
        moved = to_float32(outputs["adversarial"]).split(sizes)
        x_stability, u_stability = (_divergence(logits[n], near) for n, near in zip(_VIEWS, moved, strict=True))
        classes, mask = self.pseudo_labels(outputs, batch)
        counts = mask.to(logits["u_weak"].dtype) * float(step >= self.start * self.context.steps)
        pseudo_label = (F.cross_entropy(logits["u_weak"], classes, reduction="none") * counts).mean()
        cross_entropy = F.cross_entropy(logits["x_weak"], batch.labels)
        unlabeled = pseudo_label + self.beta * u_stability.mean()
        return {
            "loss": cross_entropy + self.beta * x_stability.mean() + self.weight * unlabeled,
            "cross_entropy": cross_entropy.detach(),
            "pseudo_label": pseudo_label.detach(),
            "stability": torch.cat([x_stability, u_stability]).mean().detach(),
            "mask": counts.mean(),
        }

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The classes that the averaged weights or the teacher give, and which of them are sure enough."""
        theirs = outputs["u_weak", TEACHER] if self.taught else batch.targets["teacher"]
        confidence, classes = to_float32(theirs.detach()).softmax(dim=-1).max(dim=-1)
        return PseudoLabels(classes, confidence >= self.threshold)


def _divergence(logits: Tensor, others: Tensor) -> Tensor:
    """``KL(p || q)`` of each row, ``(n,)``, with gradients through both."""
    log_p, log_q = logits.log_softmax(dim=-1), others.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
