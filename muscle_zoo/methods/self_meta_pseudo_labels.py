"""Self Meta Pseudo Labels: pseudo-labels that help with the labels become more likely, in one network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import PseudoLabelLoss
from ..losses.consistency import to_float32
from .base import Batch, Method, Nets, PseudoLabels, RunContext, View, check_at_least, check_share


class SelfMetaPseudoLabels(Method):
    """Self Meta Pseudo Labels (Ng and Wang 2022, arXiv 2212.13420), after Meta Pseudo Labels (arXiv 2003.10580).

    The loss is ``H(y, f(x)) + weight * P + feedback * h * Q``: P is the cross-entropy of the strong view against the
    weak view's class, where that is as sure as ``threshold``; Q is that of the weak view against the same class.
    ``h = lr * <grad P, grad H>`` says how much a step along P lowers the loss on the labels: pseudo-labels that helped
    become more likely, those that did harm less.

    The paper works out h as a difference, by a step and another pass; it is that difference to first order in the
    learning rate, as Meta Pseudo Labels derives it (appendix A there), and takes one more pass back instead. Details of
    the paper beyond its abstract could not be read, and there is no public code; the values are this project's. Logs
    ``cross_entropy``, ``pseudo_label`` (P), ``own`` (Q), in nats, and ``mask``, the share of unlabeled images that
    count.

    Args:
        threshold: Least probability at which a pseudo-label counts, 0 to 1; 0 for all.
        weight: Weight of P, at least 0.
        feedback: Weight of the feedback, at least 0.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("self_meta_pseudo_labels", {"self_meta_pseudo_labels": {"threshold": 0.8}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_strong']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }

    def __init__(
        self, threshold: float = 0.6, weight: float = 1.0, feedback: float = 1.0, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_share("self_meta_pseudo_labels.threshold", threshold, zero=True)
        check_at_least("self_meta_pseudo_labels.weight", weight)
        check_at_least("self_meta_pseudo_labels.feedback", feedback)
        self.pseudo_label = PseudoLabelLoss(threshold)
        self.weight, self.feedback = weight, feedback

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted pseudo-label loss; with the terms of the feedback."""
        cross_entropy = F.cross_entropy(to_float32(outputs["x_weak"]), batch.labels)
        pseudo_label, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        own, _ = self.pseudo_label(outputs["u_weak"], outputs["u_weak"])
        loss = cross_entropy + self.weight * pseudo_label
        terms = {"loss": loss, "cross_entropy": cross_entropy, "pseudo_label": pseudo_label, "own": own}
        return {**terms, "mask": mask.mean()}

    def backward(self, terms: dict[str, Tensor], nets: Nets) -> None:
        """Adds the feedback, which takes the gradients of two terms."""
        gradients = [nets.gradients(terms[name]) for name in ("pseudo_label", "cross_entropy")]
        helped = nets.lr * torch.dot(*gradients)
        nets.backward(terms["loss"] + self.feedback * helped * terms["own"])

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view, and which of them count."""
        _, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        return PseudoLabels(outputs["u_weak"].argmax(dim=-1), mask > 0)
