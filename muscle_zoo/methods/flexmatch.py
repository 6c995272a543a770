"""FlexMatch: FixMatch with a lower threshold for classes that are learned less well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..losses import PseudoLabelLoss
from ..losses.consistency import to_float32
from ..losses.distributed import rows_of_all_processes
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class FlexMatch(Method):
    """FlexMatch (Zhang et al. 2021, arXiv 2110.08263).

    FixMatch's loss with the threshold ``M(b_c) * threshold`` for class c: ``M(b) = b / (2 - b)``, and
    ``b_c = s_c / max(max s, N - sum s)``, where ``s_c`` counts the images of the unlabeled pool, N in all, whose last
    sure prediction was c. A table keeps that class for each image; it takes 8 bytes an image. As in the authors' code
    (github.com/microsoft/Semi-supervised-learning) a step uses the thresholds of the steps before it; that code keeps
    them where the whole pool is of one class. So at first every pseudo-label counts, and the more images are predicted
    surely, the higher are the thresholds. The defaults are the paper's. Logs ``cross_entropy``, ``pseudo_label``
    (without its weight), both in nats, ``mask``, the share of unlabeled images that count, and ``threshold``, the mean
    over the classes.

    Args:
        threshold: The highest threshold, above 0 and at most 1.
        weight: Weight of the unlabeled loss, at least 0.
        context: Images, classes and unlabeled images of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("flexmatch", context=RunContext(images=8, num_classes=2, unlabeled=8))
        >>> method.classes[:4] = torch.tensor([0, 0, 0, 1])  # of eight images four were predicted surely
        >>> [round(threshold, 3) for threshold in method.thresholds().tolist()]
        [0.57, 0.136]
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    partly_labeled: ClassVar[bool] = True

    classes: Tensor

    def __init__(self, threshold: float = 0.95, weight: float = 1.0, context: RunContext | None = None) -> None:
        super().__init__()
        check_share("flexmatch.threshold", threshold)
        check_at_least("flexmatch.weight", weight)
        context = context or RunContext()
        self.num_classes, self.unlabeled = context.num_classes, context.unlabeled
        self.supervised, self.pseudo_label = Supervised(), PseudoLabelLoss()
        self.threshold, self.weight = threshold, weight
        self.register_buffer("classes", torch.full((context.images,), -1, dtype=torch.int64))

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Keeps the thresholds of the step, for its pseudo-labels are looked at once more after its loss."""
        return replace(batch, targets={**batch.targets, "thresholds": self.thresholds()})

    def thresholds(self) -> Tensor:
        """The threshold of each class, ``(C,)`` float32."""
        counts = torch.bincount(self.classes[self.classes >= 0], minlength=self.num_classes).float()
        learned = counts / torch.maximum(counts.max(), self.unlabeled - counts.sum()).clamp(min=1.0)
        return self.threshold * learned / (2.0 - learned)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted pseudo-label loss; then the table is brought up to date."""
        terms = self.supervised.loss(outputs, batch, step)
        thresholds = batch.targets["thresholds"]
        unlabeled, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"], thresholds)
        terms["loss"] = terms["loss"] + self.weight * unlabeled
        self._update(batch.indices, outputs["u_weak"])
        return {**terms, "pseudo_label": unlabeled.detach(), "mask": mask.mean(), "threshold": thresholds.mean()}

    @torch.no_grad()
    def _update(self, indices: Tensor, logits: Tensor) -> None:
        confidence, classes = to_float32(logits).softmax(dim=-1).max(dim=-1)
        classes = torch.where(confidence >= self.threshold, classes, -1)
        # Every process keeps the whole table, so that all have the same thresholds.
        indices, classes = rows_of_all_processes(torch.stack([indices, classes], dim=1)).unbind(dim=1)
        self.classes[indices] = torch.where(classes >= 0, classes, self.classes[indices])

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view, and which of them count."""
        classes, mask = self.pseudo_label.pseudo_labels(outputs["u_weak"], batch.targets["thresholds"])
        return PseudoLabels(classes, mask > 0)
