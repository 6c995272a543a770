"""Distillation: the network should predict what a finished one predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from ..errors import InputError
from ..losses import DistillationLoss
from .base import LOGITS, TEACHER, Batch, Method, Outputs, PseudoLabels, RunContext, View, check_at_least
from .supervised import Supervised


class Distillation(Method):
    """Distillation of the recipe's ``teacher`` (Hinton et al. 2015, arXiv 1503.02531).

    The loss is ``label_weight * H(y, f(x)) + weight * T^2 KL(softmax(t(u) / T) || softmax(f(u) / T))``: t is the
    teacher, frozen and in evaluation mode. It sees the very view u of an unlabeled image that the student sees, as
    Beyer et al. ("A good teacher is patient and consistent") found to be what counts. Stanton et al. 2021 (arXiv
    2106.05945) show that a student seldom matches its teacher all the same, and that it matters which images it sees.
    The unlabeled pool holds the labeled images too. With ``label_weight`` 0 it is the third step of SimCLRv2 (Chen et
    al. 2020, arXiv 2006.10029). The weights are this project's; nothing was tuned. Logs ``cross_entropy`` where labels
    count, and ``distillation``, both in nats.

    Args:
        weight: Weight of the teacher's predictions, at least 0.
        label_weight: Weight of the labels, at least 0; with 0 no label is looked at.
        temperature: T, at least 0.001.
        policy: ``weak`` or ``strong``: the views in which the teacher is asked about unlabeled images.
        on_labeled: Ask it about the labeled images of a batch too; the mean is then over all its images.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("distillation", {"distillation": {"policy": "strong", "label_weight": 0.0}})
        >>> method.views, method.needs
        ({'u_strong': View(source='unlabeled', policy='strong', draw=0, group=0, still=False)}, \
{'u_strong': ('logits', 'teacher')})
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"u_weak": (LOGITS, TEACHER)}

    def __init__(
        self,
        weight: float = 1.0,
        label_weight: float = 1.0,
        temperature: float = 1.0,
        policy: str = "weak",
        on_labeled: bool = False,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("distillation.weight", weight)
        check_at_least("distillation.label_weight", label_weight)
        check_at_least("distillation.temperature", temperature, 1e-3)
        if policy not in ("weak", "strong"):
            raise InputError(f"distillation.policy={policy} is unknown; give weak or strong")
        self.supervised, self.distillation = Supervised(), DistillationLoss(temperature)
        self.weight, self.label_weight = weight, label_weight
        self.taught = f"u_{policy}"
        own = View("unlabeled", cast(Literal["weak", "strong"], policy))
        labeled = {"x_weak": View("labeled", "weak")} if label_weight or on_labeled else {}
        self.views = {**labeled, self.taught: own}
        self.asked = ["x_weak", self.taught] if on_labeled else [self.taught]
        self.needs = dict.fromkeys(self.asked, (LOGITS, TEACHER))

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels, and the weighted divergence from the teacher."""
        student = torch.cat([outputs[name] for name in self.asked])
        teacher = torch.cat([outputs[name, TEACHER] for name in self.asked])
        distillation = self.distillation(student, teacher)
        terms = {"loss": self.weight * distillation, "distillation": distillation.detach()}
        if self.label_weight:
            labeled = self.supervised.loss(outputs, batch, step)
            terms["loss"] = terms["loss"] + self.label_weight * labeled["loss"]
            terms["cross_entropy"] = labeled["cross_entropy"]
        return terms

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The teacher's classes, all of which count."""
        classes = outputs[self.taught, TEACHER].argmax(dim=-1)
        return PseudoLabels(classes, torch.ones_like(classes, dtype=torch.bool))
