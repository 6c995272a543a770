"""VICReg: two views of an image should have the same embedding, and embeddings should differ in every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from ..losses import VICRegLoss
from .base import Batch, Method, Outputs, RunContext, View, check_at_least

_EXPANSION = "expansion"


class VICReg(Method):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906): pre-training without labels and without negatives.

    The loss is :class:`muscle_zoo.losses.VICRegLoss` of the expansions of two strong views of the unlabeled images. The
    expansion is a head of three layers, which is left out of what is exported; the paper's is 8192 wide
    (``vicreg.preset=paper``), which is more than most networks here. Logs its three terms without their weights,
    ``invariance``, ``variance`` and ``covariance``.

    Args:
        invariance: Weight of the views' squared difference, at least 0.
        variance: Weight of the variance, at least 0.
        covariance: Weight of the covariance, at least 0.
        size: Numbers in each layer of the expansion, at least 2.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> create_method("vicreg").vicreg
        VICRegLoss(invariance=25.0, variance=25.0, covariance=1.0)
    """

    views: Mapping[str, View] = {
        "u_strong": View("unlabeled", "strong"),
        "u_strong_second": View("unlabeled", "strong", 1),
    }
    needs: Mapping[str, Sequence[str]] = dict.fromkeys(views, (_EXPANSION,))
    classifier: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {"paper": {"size": 8192}}

    def __init__(
        self,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        size: int = 512,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            check_at_least(f"vicreg.{name}", weight)
        check_at_least("vicreg.size", size, 2)
        self.vicreg, self.size = VICRegLoss(invariance, variance, covariance), size

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The expansion."""
        layers: list[nn.Module] = []
        for width in (context.features, self.size):
            layers += [nn.Linear(width, self.size, bias=False), nn.BatchNorm1d(self.size), nn.ReLU()]
        return {_EXPANSION: nn.Sequential(*layers, nn.Linear(self.size, self.size, bias=False))}

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted sum of the three terms."""
        invariance, variance, covariance = self.vicreg.terms(*(outputs[view, _EXPANSION] for view in self.views))
        weights = self.vicreg.invariance, self.vicreg.variance, self.vicreg.covariance
        loss = weights[0] * invariance + weights[1] * variance + weights[2] * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
