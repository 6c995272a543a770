"""Wrong labels: a pure function of (positions, seed), the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError
from .drawing import hash_order

NO_NOISE = "none"


def with_label_noise(labels: Tensor, labeled: Sequence[int], num_classes: int, noise: str, seed: int) -> Tensor:
    """Labels of which a share of those that a run may see is wrong; all others stay, hidden ones and held-out ones.

    The images whose label changes are the first by ``sha256("SEED/noise/POSITION")``, so those of a smaller share are
    among those of a larger one.

    Args:
        labels: Of all training images, ``(N,)`` int64.
        labeled: Positions of the labeled images.
        num_classes: C.
        noise: ``none``; ``symmetric:R``, where R of the labeled images get any other class, each as likely; or
            ``asymmetric:R``, where they get the next class, and those of the last the first.
        seed: Orders the images.

    Returns:
        ``(N,)``; the same tensor where there is no noise.

    Raises:
        InputError: The noise is written otherwise, or R is not above 0 and at most 1.

    Example:
        >>> import torch
        >>> with_label_noise(torch.tensor([0, 1, 2, 2]), [0, 1, 2], 3, "asymmetric:1", seed=0)
        tensor([1, 2, 0, 2])
    """
    if noise == NO_NOISE:
        return labels
    match = re.fullmatch(r"(symmetric|asymmetric):([01]|[01]?\.\d+)", noise)
    if match is None or not 0.0 < (share := float(match[2])) <= 1.0:
        raise InputError(
            f"label_noise={noise} is wrong; write none, symmetric:R or asymmetric:R with R above 0 and at most 1, such "
            "as symmetric:0.4"
        )
    if num_classes < 2:
        raise InputError(f"label_noise={noise}: {num_classes} class leaves no wrong label; leave it out")
    labels = labels.clone()
    for position in hash_order(f"{seed}/noise", labeled)[: round(share * len(labeled))]:
        further = 1 if match[1] == "asymmetric" else 1 + _number(f"{seed}/noise class/{position}") % (num_classes - 1)
        labels[position] = (labels[position] + further) % num_classes
    return labels


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
