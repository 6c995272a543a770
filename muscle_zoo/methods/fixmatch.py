"""FixMatch: confident predictions for the weak view are labels for the strong view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..losses import PseudoLabelLoss
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class FixMatch(Method):
    """``H(y, f(alpha(x))) + weight * pseudo-label loss`` (Sohn et al. 2020, arXiv 2001.07685, algorithm 1).

    The defaults are the paper's (section 3: threshold 0.95, weight 1). Logs ``mask``, the share of unlabeled images
    whose pseudo-label is confident enough to count.

    Args:
        threshold: Least probability at which a pseudo-label counts, above 0 and at most 1.
        weight: Weight of the unlabeled loss, at least 0.
        context: Not used.

    Raises:
        InputError: An option is out of its range.
    """

    views: ClassVar[Mapping[str, View]] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }

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
        """The classes that the weak view is given, and where they are labels."""
        _, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        return PseudoLabels(outputs["u_weak"].argmax(dim=-1), mask > 0)
