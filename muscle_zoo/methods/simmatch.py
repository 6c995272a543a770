"""SimMatch: two views of an image should be alike in class, and alike in which labeled images they resemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import SoftCrossEntropy
from ..losses.consistency import to_float32
from ..losses.distributed import rows_of_all_processes
from ..losses.distribution_alignment import AlignedPredictions
from .base import LOGITS, Batch, Method, Outputs, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised

_PROJECTION = "projection"
_BOTH = (LOGITS, _PROJECTION)


class SimMatch(Method):
    """SimMatch (Zheng et al. 2022, arXiv 2203.06915).

    A bank keeps one projection for each labeled image. The weak view's similarities to them, ``softmax(z . bank / T)``,
    are multiplied by its class probability of each one's label (aligned; "unfolding"), and are the target of the strong
    view's similarities: the instance loss. The other way round its probabilities become ``smoothing`` times themselves
    plus the rest times the similarities summed over each class ("aggregation"); they are the target of the strong
    view's prediction, where the most probable class has at least the ``threshold``. The loss is ``H(y, f(x)) + weight *
    classes + instance_weight * instances``.

    As in microsoft/Semi-supervised-learning for CIFAR the network itself gives the targets, and the bank is averaged
    over the steps; in the authors' code (github.com/KyleZheng1997/simmatch), for ImageNet, averaged weights give them
    and the bank holds the last projection. There the bank begins with random vectors, the first epoch is without it,
    and a step's own images come into it after the step; here an image counts from its first visit on, a step's come
    first, and each projection of an averaged bank has length 1, where the former normalizes each number over the batch.
    The mean prediction for the alignment is an average over the steps, there of the last 32 or 256. The other defaults
    are the paper's.

    Logs ``cross_entropy``, ``pseudo_label`` and ``instances`` (without their weights), in nats, and ``mask``, the share
    of unlabeled images whose classes count.

    Args:
        threshold: Least probability at which a target counts, above 0 and at most 1.
        weight: Weight of the classes' loss, at least 0.
        instance_weight: Weight of the instances' loss, at least 0.
        temperature: Of the similarities, at least 0.001.
        smoothing: Share of its own probabilities in a target, 0 to 1.
        bank_momentum: Share of its projection that a visit to a labeled image keeps, 0 to 1.
        momentum: Share of the mean prediction that a step keeps, 0 to 1.
        size: Numbers in a projection, at least 1.
        context: Classes and labeled images of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("simmatch", {"simmatch": {"size": 16}}, RunContext(labeled=40))
        >>> method.bank.shape
        torch.Size([40, 16])
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    needs: Mapping[str, Sequence[str]] = dict.fromkeys(views, _BOTH)

    bank: Tensor
    bank_labels: Tensor

    def __init__(
        self,
        threshold: float = 0.95,
        weight: float = 1.0,
        instance_weight: float = 1.0,
        temperature: float = 0.1,
        smoothing: float = 0.9,
        bank_momentum: float = 0.7,
        momentum: float = 0.99,
        size: int = 128,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("simmatch.threshold", threshold)
        check_at_least("simmatch.weight", weight)
        check_at_least("simmatch.instance_weight", instance_weight)
        check_at_least("simmatch.temperature", temperature, 1e-3)
        for name, share in (("smoothing", smoothing), ("bank_momentum", bank_momentum), ("momentum", momentum)):
            check_share(f"simmatch.{name}", share, zero=True)
        check_at_least("simmatch.size", size, 1)
        context = context or RunContext()
        self.supervised = Supervised()
        self.threshold, self.weight, self.instance_weight = threshold, weight, instance_weight
        self.temperature, self.smoothing, self.size = temperature, smoothing, size
        self.bank_momentum = bank_momentum
        self.aligned, self.cross_entropy = AlignedPredictions(context.num_classes, momentum), SoftCrossEntropy()
        self.register_buffer("bank", torch.zeros(context.labeled, size))
        self.register_buffer("bank_labels", torch.full((context.labeled,), -1, dtype=torch.int64))

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The projection head."""
        hidden = [nn.Linear(context.features, context.features), nn.ReLU()]
        return {_PROJECTION: nn.Sequential(*hidden, nn.Linear(context.features, self.size))}

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Brings the bank up to date, then cross-entropy on the labels, the classes' and the instances' loss."""
        terms = self.supervised.loss(outputs, batch, step)
        labeled, weak, strong = (F.normalize(to_float32(outputs[v, _PROJECTION]), dim=1) for v in self.views)
        self._update(labeled.detach(), batch)
        predictions = self.aligned(outputs["u_weak"])
        classes, instances = self.targets(predictions, weak.detach())
        confidence = classes.amax(dim=-1)
        mask = (confidence >= self.threshold).to(confidence.dtype)
        unlabeled = self.cross_entropy(classes, outputs["u_strong"], mask)
        alike = -(instances * self._similarities(strong)).sum(dim=-1).mean()
        terms["loss"] = terms["loss"] + self.weight * unlabeled + self.instance_weight * alike
        return {**terms, "pseudo_label": unlabeled.detach(), "instances": alike.detach(), "mask": mask.mean()}

    def _similarities(self, projections: Tensor) -> Tensor:
        """Logarithms of the similarities to the labeled images seen so far, ``(n, seen)``."""
        return (projections @ self.bank[self.bank_labels >= 0].T / self.temperature).log_softmax(dim=-1)

    def targets(self, predictions: Tensor, projections: Tensor) -> tuple[Tensor, Tensor]:
        """What the strong views should be like, of the weak views' predictions ``(n, C)`` and projections ``(n, D)``.

        Returns:
            Class probabilities, ``(n, C)``, and similarities to the labeled images seen so far, ``(n, seen)``.
        """
        labels = self.bank_labels[self.bank_labels >= 0]
        similarities = self._similarities(projections).exp()
        instances = similarities * predictions[:, labels]
        of_classes = similarities @ F.one_hot(labels, predictions.shape[1]).to(similarities.dtype)
        classes = self.smoothing * predictions + (1.0 - self.smoothing) * of_classes
        return classes, instances / instances.sum(dim=-1, keepdim=True).clamp(min=1e-12)

    def _update(self, projections: Tensor, batch: Batch) -> None:
        # Every process keeps the whole bank. With few labels an image may stand in a batch several times.
        rows = rows_of_all_processes(batch.labeled_rows)
        labels, values = rows_of_all_processes(batch.labels), rows_of_all_processes(projections.to(self.bank.dtype))
        sums = torch.zeros_like(self.bank).index_add_(0, rows, values)
        visits = torch.bincount(rows, minlength=len(self.bank)).unsqueeze(1)
        new = self.bank_labels.unsqueeze(1) < 0
        mean = sums / visits.clamp(min=1)
        kept = torch.where(new, mean, self.bank_momentum * self.bank + (1.0 - self.bank_momentum) * mean)
        self.bank.copy_(torch.where(visits > 0, F.normalize(kept, dim=1), self.bank))
        self.bank_labels[rows] = labels

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The most probable classes of the weak view, aligned, and which of them are sure."""
        confidence, classes = self.aligned.align(outputs["u_weak"]).max(dim=-1)
        return PseudoLabels(classes, confidence >= self.threshold)
