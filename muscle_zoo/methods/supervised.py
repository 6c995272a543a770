"""Cross-entropy on the labeled images: the control."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ..losses.consistency import to_float32
from .base import Batch, Method, RunContext, View


class Supervised(Method):
    """Cross-entropy on the labeled images: the control that the other methods are compared with.

    The loss is ``H(y, f(alpha(x)))``, a mean over the labeled batch, in nats. It never sees an unlabeled image. Logs
    ``cross_entropy``, which is the loss.

    Args:
        context: Not used.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("supervised")
        >>> list(method.views)
        ['x_weak']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak")}

    def __init__(self, context: RunContext | None = None) -> None:
        super().__init__()

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the labeled images' weak view."""
        loss = F.cross_entropy(to_float32(outputs["x_weak"]), batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}
