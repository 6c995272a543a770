"""Cross-entropy on the labelled images: the control."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.consistency import widen
from .base import Batch, Setting, View


class Supervised(nn.Module):
    """``H(y, f(alpha(x)))`` on the labelled images; it never sees an unlabelled one.

    Logs nothing but the loss, in nats, a mean over the labelled batch.

    Args:
        setting: Not used.
    """

    views: ClassVar[dict[str, View]] = {"x_weak": View("labelled", "weak")}

    def __init__(self, setting: Setting | None = None) -> None:
        super().__init__()

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the labelled images' weak view."""
        loss = F.cross_entropy(widen(outputs["x_weak"]), batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}
