"""FreeMatch: FixMatch with thresholds that the run finds for itself, one for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import PseudoLabelLoss
from ..losses.distributed import all_reduce_sum, mean_over_processes
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class FreeMatch(Method):
    """FreeMatch: FixMatch with self-adaptive thresholds and a fairness term (Wang et al. 2023, arXiv 2205.07246).

    ``tau``, the mean confidence on unlabeled images, and ``p``, their mean prediction, are averages over the steps (eq.
    5 and 6); the threshold of class c is ``tau p_c / max p`` (eq. 8). The fairness term (eq. 11, with the authors'
    sign) compares the mean prediction of the strong views that count, divided by the histogram of their classes, with p
    divided by the weak views' histogram. The defaults are the paper's; the authors' released configurations have a
    fairness of 0.001, their code's default is 0.01, and for SVHN they clip the thresholds, which is left out.
    Statistics are of the global batch; under accumulation they are brought up to date with every part.

    Logs ``cross_entropy``, ``pseudo_label`` and ``fairness`` (both without their weights), in nats; ``mask``, the share
    of unlabeled images that count; and ``threshold`` (tau).

    Args:
        momentum: Share of an average that a step keeps, 0 to 1.
        weight: Weight of the unlabeled loss, at least 0.
        fairness: Weight of the fairness term, at least 0.
        context: Classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("freematch", {"freematch": {"fairness": 0.01}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_strong']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    partly_labeled: ClassVar[bool] = True

    tau: Tensor
    p: Tensor
    histogram: Tensor

    def __init__(
        self,
        momentum: float = 0.999,
        weight: float = 1.0,
        fairness: float = 0.05,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("freematch.momentum", momentum, zero=True)
        check_at_least("freematch.weight", weight)
        check_at_least("freematch.fairness", fairness)
        classes = (context or RunContext()).num_classes
        self.supervised = Supervised()
        self.pseudo_label = PseudoLabelLoss()
        self.momentum, self.weight, self.fairness = momentum, weight, fairness
        self.register_buffer("tau", torch.tensor(1.0 / classes))
        self.register_buffer("p", torch.full((classes,), 1.0 / classes))
        self.register_buffer("histogram", torch.full((classes,), 1.0 / classes))

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Brings the averages up to date, then cross-entropy, pseudo-label loss and fairness."""
        terms = self.supervised.loss(outputs, batch, step)
        self._update(outputs["u_weak"])
        unlabeled, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"], self.thresholds())
        fairness = self._fairness(outputs["u_strong"], mask)
        terms["loss"] = terms["loss"] + self.weight * unlabeled + self.fairness * fairness
        terms["pseudo_label"] = unlabeled.detach()
        terms["fairness"] = fairness.detach()
        terms["mask"] = mask.mean()
        terms["threshold"] = self.tau.clone()
        return terms

    def thresholds(self) -> Tensor:
        """The threshold of each class, ``(C,)``."""
        return self.tau * self.p / self.p.max()

    @torch.no_grad()
    def _update(self, logits: Tensor) -> None:
        predictions = logits.to(self.p.dtype).softmax(dim=-1)
        confidence, classes = predictions.max(dim=-1)
        counts = F.one_hot(classes, len(self.p)).to(self.p.dtype).mean(dim=0)
        # One reduction for the three statistics: each would wait for the other processes.
        means = mean_over_processes(torch.cat([confidence.mean().view(1), predictions.mean(dim=0), counts]))
        tau, p, histogram = means.split([1, len(self.p), len(self.p)])
        self.tau.lerp_(tau[0], 1.0 - self.momentum)
        self.p.lerp_(p, 1.0 - self.momentum)
        self.histogram.lerp_(histogram, 1.0 - self.momentum)

    def _fairness(self, logits: Tensor, mask: Tensor) -> Tensor:
        predictions = logits.to(mask.dtype).softmax(dim=-1)
        counts = F.one_hot(predictions.argmax(dim=-1), len(self.p)).to(mask.dtype)
        mask = mask.unsqueeze(1)
        sums = all_reduce_sum(torch.cat([(mask * predictions).sum(dim=0), (mask * counts).sum(dim=0)]))
        mean, of_class = sums.split(len(self.p))
        # A class that no counted image has gets 0 here, as in the authors' code.
        scaled = torch.where(of_class > 0, mean / of_class.detach().clamp(min=1.0), torch.zeros_like(mean))
        of_batch = scaled / scaled.sum().clamp(min=1e-12)
        of_run = self.p / self.histogram.clamp(min=1e-12)
        of_run = of_run / of_run.sum()
        # Where no image counts the term is 0, and not the log of 1e-12.
        return (of_run * (of_batch + 1e-12).log()).sum() * (sums.detach().sum() > 0)

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view, and which of them count."""
        classes, mask = self.pseudo_label.pseudo_labels(outputs["u_weak"], self.thresholds())
        return PseudoLabels(classes, mask > 0)
