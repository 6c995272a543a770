"""FixMatch: confident predictions for the weak view are labels for the strong view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..losses import PseudoLabelLoss
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class FixMatch(Method):
    """FixMatch (Sohn et al. 2020, arXiv 2001.07685, algorithm 1).

    The loss is ``H(y, f(alpha(x))) + weight * 1[max q >= threshold] H(argmax q, f(A(u)))`` with ``q = f(alpha(u))``: a
    mean over the labeled and a mean over all unlabeled images (eq. 3 and 4). The defaults are the paper's (section 3).
    Logs ``cross_entropy``, ``pseudo_label`` (the second term without its weight), both in nats, and ``mask``, the share
    of unlabeled images whose pseudo-label is sure enough to count.

    Args:
        threshold: Least probability at which a pseudo-label counts, above 0 and at most 1.
        weight: Weight of the unlabeled loss, at least 0.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("fixmatch", {"fixmatch": {"threshold": 0.9}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_strong']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    partly_labeled: ClassVar[bool] = True

    def __init__(self, threshold: float = 0.95, weight: float = 1.0, context: RunContext | None = None) -> None:
        super().__init__()
        check_share("fixmatch.threshold", threshold)
        check_at_least("fixmatch.weight", weight)
        self.supervised = Supervised()
        self.pseudo_label = PseudoLabelLoss(threshold)
        self.weight = weight

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted pseudo-label loss."""
        terms = self.supervised.loss(outputs, batch, step)
        unlabeled, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        terms["loss"] = terms["loss"] + self.weight * unlabeled
        terms["pseudo_label"] = unlabeled.detach()
        terms["mask"] = mask.mean()
        return terms

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view, and which of them count."""
        classes, mask = self.pseudo_label.pseudo_labels(outputs["u_weak"])
        return PseudoLabels(classes, mask > 0)
