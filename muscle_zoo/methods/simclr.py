"""SimCLR: two views of an image should be more alike than views of different images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from ..losses import NTXentLoss
from .base import Batch, Method, Outputs, RunContext, View, check_at_least

_PROJECTION = "projection"


class SimCLR(Method):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709): pre-training without labels.

    The loss is :class:`muscle_zoo.losses.NTXentLoss` of the projections of two strong views of the unlabeled images;
    those of all processes are each other's negatives. The projection is a head with one hidden layer, as wide as the
    features, which is left out of what is exported. The views are the recipe's ``strong`` policy (the paper's own are
    crops and colors), the optimizer is the recipe's and not LARS. Logs nothing but its loss.

    Args:
        temperature: Of the loss, at least 0.001; the paper's best on CIFAR-10 is the default.
        size: Numbers in a projection, at least 1.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("simclr", {"simclr": {"temperature": 0.2}})
        >>> method.parts(RunContext(features=64))["projection"][-1]
        Linear(in_features=64, out_features=128, bias=True)
    """

    views: Mapping[str, View] = {
        "u_strong": View("unlabeled", "strong"),
        "u_strong_second": View("unlabeled", "strong", 1),
    }
    needs: Mapping[str, Sequence[str]] = dict.fromkeys(views, (_PROJECTION,))
    classifier: ClassVar[bool] = False

    def __init__(self, temperature: float = 0.5, size: int = 128, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("simclr.temperature", temperature, 1e-3)
        check_at_least("simclr.size", size, 1)
        self.nt_xent, self.size = NTXentLoss(temperature), size

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The projection head."""
        hidden = [nn.Linear(context.features, context.features, bias=False), nn.BatchNorm1d(context.features)]
        return {_PROJECTION: nn.Sequential(*hidden, nn.ReLU(), nn.Linear(context.features, self.size))}

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """The contrastive loss of the two views."""
        return {"loss": self.nt_xent(*(outputs[view, _PROJECTION] for view in self.views))}
