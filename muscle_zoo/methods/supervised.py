"""Cross-entropy on the labelled images: the control."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import Batch, View


class Supervised(nn.Module):
    """``H(y, f(alpha(x)))`` on the labelled images; it never sees an unlabelled one.

    Logs nothing but the loss, in nats, a mean over the labelled batch.
    """

    views: ClassVar[dict[str, View]] = {"x_weak": View("labelled", "weak")}

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the labelled images' weak view."""
        logits = outputs["x_weak"]
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}
