"""Neighbor consistency: an image should be predicted as its nearest neighbors are, whatever its own label says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses.consistency import to_float32
from ..losses.distributed import gather_rows, rows_of_all_processes
from .base import FEATURES, LOGITS, Batch, Method, Outputs, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class NeighborConsistency(Method):
    """Neighbor consistency regularization, for noisy labels (Iscen et al. 2022, arXiv 2202.02200).

    The loss is ``(1 - weight) H(y, f(x)) + weight * KL(f(x_i) || sum_j s_ij f(x_j))``: the sum is over the images of
    the global batch, as many as ``neighbors``, whose features are nearest, with ``s_ij`` their cosine similarity (0
    where it is negative), divided by its sum over them. No gradient flows through the neighbors or the similarities. It
    begins after ``start``; before, it is cross-entropy alone. Labels are made noisy by the recipe's ``label_noise``.

    The paper's weight for CIFAR-10 is 0.7, and it has no unlabeled images (``neighbor_consistency.preset=paper``); here
    they are neighbors too, and are drawn to theirs. The two terms are weighted as in the authors' code
    (github.com/google-research/scenic, projects/ncr). There the divergence is the other way round,
    ``KL(neighbors || f(x_i))``, times the squared temperature, and gradients flow through the neighbors and the
    similarities too.

    Logs ``cross_entropy`` and ``neighbors`` (without its weight), in nats.

    Args:
        weight: Share of the neighbors in the loss, 0 to 1.
        neighbors: How many, at least 1.
        start: Share of the steps before which it is cross-entropy alone, 0 to 1.
        temperature: Divides the logits of both sides, at least 0.001.
        unlabeled: Take unlabeled images too.
        context: Steps of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("neighbor_consistency", {"neighbor_consistency": {"unlabeled": False}})
        >>> list(method.views)
        ['x_weak']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_weak": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = dict.fromkeys(views, (LOGITS, FEATURES))
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {"paper": {"weight": 0.7, "unlabeled": False}}

    def __init__(
        self,
        weight: float = 0.3,
        neighbors: int = 10,
        start: float = 0.1,
        temperature: float = 1.0,
        unlabeled: bool = True,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("neighbor_consistency.weight", weight, zero=True)
        check_at_least("neighbor_consistency.neighbors", neighbors, 1)
        check_share("neighbor_consistency.start", start, zero=True)
        check_at_least("neighbor_consistency.temperature", temperature, 1e-3)
        self.context = context or RunContext()
        self.supervised = Supervised()
        self.weight, self.neighbors, self.start, self.temperature = weight, neighbors, start, temperature
        names = ("x_weak", "u_weak") if unlabeled else ("x_weak",)
        self.views = {name: type(self).views[name] for name in names}
        self.needs = {name: type(self).needs[name] for name in names}

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels and the neighbors' divergence, each with its share."""
        terms = self.supervised.loss(outputs, batch, step)
        log_p = torch.cat([(to_float32(outputs[v]) / self.temperature).log_softmax(dim=-1) for v in self.views])
        divergence = (log_p.exp() * (log_p - self._neighbors(outputs, log_p).clamp(min=1e-12).log())).sum(dim=-1).mean()
        weight = self.weight if step >= self.start * self.context.steps else 0.0
        terms["loss"] = (1.0 - weight) * terms["loss"] + weight * divergence
        return {**terms, "neighbors": divergence.detach()}

    @torch.no_grad()
    def _neighbors(self, outputs: Outputs, log_p: Tensor) -> Tensor:
        """What the neighbors of this process's images are predicted as, ``(n, C)``."""
        own = [F.normalize(to_float32(outputs[view, FEATURES].detach()), dim=1) for view in self.views]
        p = log_p.exp().split([len(part) for part in own])
        everybodys, places, before = [], [], 0
        for features in own:
            whole, first = gather_rows(features)
            places.append(before + first + torch.arange(len(features), device=features.device))
            everybodys.append(whole)
            before += len(whole)
        similarities = torch.cat(own) @ torch.cat(everybodys).T
        itself = torch.cat(places)  # is no neighbor; the same image in another view of the batch is one
        similarities[torch.arange(len(itself), device=itself.device), itself] = -1.0
        nearest, rows = similarities.topk(min(self.neighbors, before - 1), dim=1)
        shares = nearest.clamp(min=0.0)
        total = shares.sum(dim=1, keepdim=True)
        predictions = torch.cat([rows_of_all_processes(part) for part in p])
        mean = (shares.unsqueeze(2) * predictions[rows]).sum(dim=1) / total.clamp(min=1e-12)
        return torch.where(total > 0, mean, torch.cat(p))  # one that nothing is near to stays as it is
