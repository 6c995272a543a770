"""CoMatch: class probabilities and embeddings learn from each other, through graphs of the images' similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import SoftCrossEntropy
from ..losses.consistency import to_float32
from ..losses.distributed import gather_rows, rows_of_all_processes
from ..losses.distribution_alignment import AlignedPredictions
from .base import LOGITS, Batch, Method, Outputs, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised

_PROJECTION = "projection"
_BOTH = (LOGITS, _PROJECTION)


class CoMatch(Method):
    """CoMatch (Li et al. 2021, arXiv 2011.11183).

    The weak view's prediction, aligned, is smoothed with those of the images in a bank, by the similarity of their
    projections: ``smoothing * p + (1 - smoothing) * sum_k a_k p_k``. Where its most probable class has at
    least the ``threshold``, it is the target of a strong view's prediction. Two images whose pseudo-labels are alike
    enough, ``p_i . p_j >= edge``, are joined by an edge of that weight, and each image with itself by one of 1;
    the similarities of the projections of two strong views, ``exp(z_i . z'_j / T)``, should be as these edges, both
    divided by their sum. The loss is ``H(y, f(x)) + weight * classes + graph_weight * graph``.

    The bank holds the last ``bank`` images of the global batches, labeled ones with their labels. Followed is the
    authors' code (github.com/salesforce/CoMatch) as microsoft/Semi-supervised-learning has it: pseudo-labels are
    smoothed once the bank is full. The mean prediction for the alignment is an average over the steps, there of the
    last 32 or 256 batches; there 1e-7 is added to a similarity before its logarithm. The graph is that of the global
    batch. The defaults are the paper's for CIFAR-10.

    Logs ``cross_entropy``, ``pseudo_label`` and ``graph`` (without their weights), in nats, and ``mask``, the share of
    unlabeled images whose classes count.

    Args:
        threshold: Least probability at which a pseudo-label counts, above 0 and at most 1.
        weight: Weight of the classes' loss, at least 0.
        graph_weight: Weight of the graph's loss, at least 0.
        edge: Least similarity of pseudo-labels that joins two images, 0 to 1.
        temperature: Of the similarities, at least 0.001.
        smoothing: Share of its own prediction in a pseudo-label, 0 to 1.
        bank: Images that the bank holds, at least 1.
        momentum: Share of the mean prediction that a step keeps, 0 to 1.
        size: Numbers in a projection, at least 1.
        context: Classes of the run.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("comatch", {"comatch": {"bank": 500}})
        >>> method.bank.shape
        torch.Size([500, 64])
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
        "u_strong_second": View("unlabeled", "strong", 1),
    }
    needs: Mapping[str, Sequence[str]] = {**dict.fromkeys(views, _BOTH), "u_strong_second": (_PROJECTION,)}

    bank: Tensor
    bank_predictions: Tensor
    written: Tensor

    def __init__(
        self,
        threshold: float = 0.95,
        weight: float = 1.0,
        graph_weight: float = 1.0,
        edge: float = 0.8,
        temperature: float = 0.2,
        smoothing: float = 0.9,
        bank: int = 2560,
        momentum: float = 0.99,
        size: int = 64,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_share("comatch.threshold", threshold)
        check_at_least("comatch.weight", weight)
        check_at_least("comatch.graph_weight", graph_weight)
        check_at_least("comatch.temperature", temperature, 1e-3)
        for name, share in (("edge", edge), ("smoothing", smoothing), ("momentum", momentum)):
            check_share(f"comatch.{name}", share, zero=True)
        check_at_least("comatch.bank", bank, 1)
        check_at_least("comatch.size", size, 1)
        classes = (context or RunContext()).num_classes
        self.supervised = Supervised()
        self.threshold, self.weight, self.graph_weight, self.edge = threshold, weight, graph_weight, edge
        self.temperature, self.smoothing, self.size = temperature, smoothing, size
        self.aligned, self.cross_entropy = AlignedPredictions(classes, momentum), SoftCrossEntropy()
        self.register_buffer("bank", torch.zeros(bank, size))
        self.register_buffer("bank_predictions", torch.zeros(bank, classes))
        self.register_buffer("written", torch.tensor(0))

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The projection head."""
        hidden = [nn.Linear(context.features, context.features), nn.LeakyReLU(0.1)]
        return {_PROJECTION: nn.Sequential(*hidden, nn.Linear(context.features, self.size))}

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels, the classes' and the graph's loss; then the bank is brought up to date."""
        terms = self.supervised.loss(outputs, batch, step)
        x, u, strong, second = (F.normalize(to_float32(outputs[view, _PROJECTION]), dim=1) for view in self.views)
        predictions = self.aligned(outputs["u_weak"])
        pseudo = self.smoothed(predictions, u.detach())
        confidence = pseudo.amax(dim=-1)
        mask = (confidence >= self.threshold).to(confidence.dtype)
        unlabeled = self.cross_entropy(pseudo, outputs["u_strong"], mask)
        graph = self._graph(pseudo, strong, second)
        terms["loss"] = terms["loss"] + self.weight * unlabeled + self.graph_weight * graph
        labels = F.one_hot(batch.labels, predictions.shape[1]).to(predictions.dtype)
        self._remember((u, x), (predictions, labels))
        return {**terms, "pseudo_label": unlabeled.detach(), "graph": graph.detach(), "mask": mask.mean()}

    def smoothed(self, predictions: Tensor, projections: Tensor) -> Tensor:
        """Pseudo-labels, ``(n, C)``, of predictions and projections: smoothed with the bank's, once it is full."""
        similarities = (projections @ self.bank.T.to(projections.dtype) / self.temperature).softmax(dim=-1)
        neighbors = similarities @ self.bank_predictions.to(projections.dtype)
        smoothed = self.smoothing * predictions + (1.0 - self.smoothing) * neighbors
        return torch.where(self.written >= len(self.bank), smoothed, predictions)

    def _graph(self, pseudo: Tensor, strong: Tensor, second: Tensor) -> Tensor:
        others, first = gather_rows(second)
        edges = pseudo @ rows_of_all_processes(pseudo).T
        own = torch.arange(len(pseudo), device=pseudo.device)
        edges[own, first + own] = 1.0
        edges = edges * (edges >= self.edge)
        log_similarities = (strong @ others.T / self.temperature).log_softmax(dim=-1)
        return -(edges / edges.sum(dim=-1, keepdim=True) * log_similarities).sum(dim=-1).mean()

    @torch.no_grad()
    def _remember(self, projections: Sequence[Tensor], predictions: Sequence[Tensor]) -> None:
        # Every process keeps the whole bank, in the order that one process would have.
        both = ((projections, self.bank), (predictions, self.bank_predictions))
        for values, bank in both:
            rows = torch.cat([rows_of_all_processes(part.to(bank.dtype)) for part in values])[-len(bank) :]
            places = (self.written + torch.arange(len(rows), device=rows.device)) % len(bank)
            bank[places] = rows
        self.written += len(rows)

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The most probable classes of the weak view, aligned, and which of them are sure."""
        confidence, classes = self.aligned.align(outputs["u_weak"]).max(dim=-1)
        return PseudoLabels(classes, confidence >= self.threshold)
