"""UDA: a sharpened prediction of the weak view is the target of the strong view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..losses import Divergence
from ..losses.consistency import to_float32
from .base import Batch, Method, PseudoLabels, RunContext, View, check_at_least, check_share
from .supervised import Supervised


class UDA(Method):
    """Unsupervised data augmentation (Xie et al. 2020, arXiv 1904.12848).

    The loss is ``H(y, f(alpha(x))) + weight * 1[max q > threshold] KL(sharpened q || f(A(u)))`` with ``q =
    f(alpha(u))`` and ``sharpened q = softmax(logits / temperature)``: a mean over the labeled and a mean over all
    unlabeled images. The defaults are the paper's for CIFAR-10 (section 2.2 and appendix). Training signal annealing,
    which the paper uses for some sets, is left out, and the averaged weights and BatchNorm's momentum are the recipe's
    (0.9999 and 0.9 in the authors' code). Logs ``cross_entropy``, ``consistency`` (the divergence without its
    weight), both in nats, and ``mask``, the share of unlabeled images that count.

    Args:
        threshold: Probability above which an image counts, 0 to 1.
        temperature: Divides the logits of the target, at least 0.001; below 1 it sharpens.
        weight: Weight of the unlabeled loss, at least 0.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("uda", {"uda": {"temperature": 0.5}})
        >>> list(method.views)
        ['x_weak', 'u_weak', 'u_strong']
    """

    views: Mapping[str, View] = {
        "x_weak": View("labeled", "weak"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    partly_labeled: ClassVar[bool] = True

    def __init__(
        self, threshold: float = 0.8, temperature: float = 0.4, weight: float = 1.0, context: RunContext | None = None
    ) -> None:
        super().__init__()
        check_share("uda.threshold", threshold, zero=True)
        check_at_least("uda.temperature", temperature, 1e-3)
        check_at_least("uda.weight", weight)
        self.supervised = Supervised()
        self.divergence = Divergence()
        self.threshold, self.temperature, self.weight = threshold, temperature, weight

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted divergence."""
        terms = self.supervised.loss(outputs, batch, step)
        logits = to_float32(outputs["u_weak"].detach())
        mask = self._mask(logits)
        consistency = self.divergence((logits / self.temperature).softmax(dim=-1), outputs["u_strong"], mask)
        terms["loss"] = terms["loss"] + self.weight * consistency
        terms["consistency"] = consistency.detach()
        terms["mask"] = mask.mean()
        return terms

    def _mask(self, logits: Tensor) -> Tensor:
        return (logits.softmax(dim=-1).amax(dim=-1) > self.threshold).to(logits.dtype)

    def pseudo_labels(self, outputs: dict[str, Tensor], batch: Batch) -> PseudoLabels:
        """The predicted classes of the weak view, and which of them count."""
        logits = to_float32(outputs["u_weak"].detach())
        return PseudoLabels(logits.argmax(dim=-1), self._mask(logits) > 0)
