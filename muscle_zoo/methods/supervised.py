"""Cross-entropy on the labeled images: the control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..losses.consistency import to_float32
from ..losses.distributed import mean_over_processes
from .base import Batch, Method, RunContext, View


class Supervised(Method):
    """Cross-entropy on the labeled images: the control that the other methods are compared with.

    The loss is ``H(y, f(alpha(x)))``, a mean over the labeled batch, in nats; with ``sampling=uniform`` over those
    images of the global batch that have a label, and 0 where none has. It learns from no other image. Logs
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
    partly_labeled: ClassVar[bool] = True

    def __init__(self, context: RunContext | None = None) -> None:
        super().__init__()

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the labeled images' weak view."""
        logits = to_float32(outputs["x_weak"])
        if batch.partly_labeled:
            total = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
            count = mean_over_processes((batch.labels >= 0).sum().to(logits.dtype))  # gradients are averaged over them
            loss = total / count.clamp(min=1e-6)
        else:
            loss = F.cross_entropy(logits, batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}
