"""Cross-entropy on the labeled images: the control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..losses.consistency import to_float32
from .base import Batch, Method, RunContext, View


class Supervised(Method):
    """``H(y, f(alpha(x)))`` on the labeled images; it never sees an unlabeled one.

    Logs nothing but the loss, in nats, a mean over the labeled batch.

    Args:
        context: Not used.
    """

    views: ClassVar[Mapping[str, View]] = {"x_weak": View("labeled", "weak")}

    def __init__(self, context: RunContext | None = None) -> None:
        super().__init__()

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the labeled images' weak view."""
        loss = F.cross_entropy(to_float32(outputs["x_weak"]), batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}
