"""Temporal ensembling: an image should be predicted as it was, on average, before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..losses import SquaredDifference
from ..losses.distributed import rows_of_all_processes
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share, sigmoid_rampup
from .supervised import Supervised


class TemporalEnsembling(Method):
    """Temporal ensembling (Laine and Aila 2017, arXiv 1610.02242, algorithm 2).

    The loss is ``H(y, f(x)) + w(t) * mean squared difference of f(u) and the ensemble's prediction for u``. A table
    keeps ``Z_i = momentum Z_i + (1 - momentum) z_i`` for every training image i; the ensemble's prediction after k
    visits is ``Z_i / (1 - momentum^k)``. An image that was not seen before does not count. The table takes 4 bytes for
    each image and class. ``w(t)`` rises as ``exp(-5 (1 - t)^2)`` over the ramp. The defaults are the paper's (section
    3): momentum 0.6, weight 30, rising over 80 of 300 epochs. In the paper the cross-entropy is divided by all images
    of a batch, labeled or not, and the weight is 30 times the share of labeled ones: so against a mean over the labeled
    images, as here, it is 30. Logs ``cross_entropy``, in nats, ``consistency`` (the difference without its weight) and
    ``mask``, the share of images seen before.

    Args:
        weight: Highest weight, at least 0.
        momentum: Share of the table's entry that a visit keeps, at least 0 and below 1.
        ramp: Share of the steps over which the weight rises, 0 to 1.
        context: Steps, images and classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("temporal_ensembling", {"temporal_ensembling": {"momentum": 0.9}})
        >>> list(method.views)
        ['x_weak', 'u_weak']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    partly_labeled: ClassVar[bool] = True

    table: Tensor
    visits: Tensor

    def __init__(
        self, weight: float = 30.0, momentum: float = 0.6, ramp: float = 80 / 300, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_at_least("temporal_ensembling.weight", weight)
        check_share("temporal_ensembling.momentum", momentum, zero=True)
        if momentum == 1.0:
            raise InputError("temporal_ensembling.momentum=1.0 never learns; give at least 0 and less than 1")
        check_share("temporal_ensembling.ramp", ramp, zero=True)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.difference = SquaredDifference()
        self.weight = weight
        self.momentum = momentum
        self.ramp = ramp
        self.register_buffer("table", torch.zeros(self.context.images, self.context.num_classes))
        self.register_buffer("visits", torch.zeros(self.context.images, dtype=torch.int64))

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Looks up the ensemble's predictions."""
        visits = self.visits[batch.indices]
        scale = 1.0 - self.momentum ** visits.clamp(min=1).to(self.table.dtype)
        target = self.table[batch.indices] / scale.unsqueeze(1)
        is_seen = (visits > 0).to(target.dtype)
        return replace(batch, targets={**batch.targets, "ensemble": target, "seen": is_seen})

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted difference; then the table is brought up to date."""
        terms = self.supervised.loss(outputs, batch, step)
        consistency = self.difference(batch.targets["ensemble"], outputs["u_weak"], batch.targets["seen"])
        weight = self.weight * sigmoid_rampup(step, self.context.steps, self.ramp)
        terms["loss"] = terms["loss"] + weight * consistency
        terms["consistency"] = consistency.detach()
        terms["mask"] = batch.targets["seen"].mean()
        self._update(batch.indices, outputs["u_weak"])
        return terms

    @torch.no_grad()
    def _update(self, indices: Tensor, logits: Tensor) -> None:
        # Every process keeps the whole table, so that any of them may meet the image next.
        rows = rows_of_all_processes(indices)
        predictions = rows_of_all_processes(logits.to(self.table.dtype).softmax(dim=-1))
        self.table[rows] = self.momentum * self.table[rows] + (1.0 - self.momentum) * predictions
        self.visits[rows] = self.visits[rows] + 1

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The ensemble's classes, which count for the images seen before."""
        return PseudoLabels(batch.targets["ensemble"].argmax(dim=-1), batch.targets["seen"] > 0)
