"""FixMatch: confident guesses from the weak view are labels for the strong view."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..losses import PseudoLabelLoss
from .base import Batch, Guess, Setting, View, check_at_least, check_share
from .supervised import Supervised


class FixMatch(nn.Module):
    """``H(y, f(alpha(x))) + weight * pseudo-label loss`` (Sohn et al. 2020, arXiv 2001.07685, algorithm 1).

    The defaults are the paper's (section 3: threshold 0.95, weight 1). Logs ``mask``, the share of unlabelled images
    whose guess is confident enough to count.

    Args:
        threshold: Least probability at which a guess counts, above 0 and at most 1.
        weight: Weight of the unlabelled loss, at least 0.
        setting: Not used.

    Raises:
        InputError: An option is out of its range.
    """

    views: ClassVar[dict[str, View]] = {
        "x_weak": View("labelled", "weak"),
        "u_weak": View("unlabelled", "weak"),
        "u_strong": View("unlabelled", "strong"),
    }

    def __init__(self, threshold: float = 0.95, weight: float = 1.0, setting: Setting | None = None) -> None:
        super().__init__()
        check_share("fixmatch.threshold", threshold)
        check_at_least("fixmatch.weight", weight)
        self.supervised = Supervised()
        self.pseudo_label = PseudoLabelLoss(threshold)
        self.weight = weight

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted pseudo-label loss."""
        terms = self.supervised.loss(outputs, batch, step)
        unlabelled, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        terms["loss"] = terms["loss"] + self.weight * unlabelled
        terms["pseudo_label"] = unlabelled.detach()
        terms["mask"] = mask.mean()
        return terms

    def guess(self, outputs: dict[str, Tensor], batch: Batch) -> Guess:
        """The classes that the weak view is given, and where they are labels."""
        _, mask = self.pseudo_label(outputs["u_weak"], outputs["u_strong"])
        return Guess(outputs["u_weak"].argmax(dim=-1), mask > 0)
