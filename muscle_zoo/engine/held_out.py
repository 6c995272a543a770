"""Calibration by labels: one temperature, found on predictions for labeled pictures that were held out of training.

Where a cross-validation was made anyway, as for one's own pictures, its networks have said something of every labeled
picture without having seen it. That measures confidence itself, not what agreement promises of it
(:mod:`muscle_zoo.engine.calibration`), and it also makes surer what is less sure than right, as logistic regression is
on few labels. The networks of the folds had a few labels less than the one that is exported; so it is not exact.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import START_OVER, InputError
from ..files import read_json, write_json
from .calibration import DECIMALS, HIGHEST, LOWEST

HELD_OUT_RULE = "least negative log-likelihood of held-out labeled pictures, their labels smoothed by one count a class"


@dataclass(frozen=True)
class HeldOutCalibration:
    """What held-out predictions say of a network's confidence.

    Attributes:
        temperature: What the logits are to be divided by; below 1 where it is less sure than it is right.
        images: How many labeled pictures were held out.
        confidence: Mean probability of the most probable class, before, 0 to 1.
        accuracy: Share of predictions that were right, 0 to 1.
    """

    temperature: float
    images: int
    confidence: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the temperature and the rule first, then the measurements."""
        values = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {"temperature": values.pop("temperature"), "rule": HELD_OUT_RULE, **values}

    def write(self, file: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> HeldOutCalibration | None:
        """Reads it; None where there is none.

        Raises:
            InputError: It is damaged.
        """
        if not file.exists():
            return None
        try:
            said = cls(**read_json(file))
            if not LOWEST <= said.temperature <= HIGHEST:
                raise ValueError(f"temperature={said.temperature}")
            return said
        except (TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged ({error}); restore it, or {START_OVER}") from None


def calibrate_held_out(probabilities: Tensor, labels: Tensor, images: int) -> HeldOutCalibration:
    """Measures how sure held-out predictions are, and finds the temperature that makes them likeliest.

    Args:
        probabilities: ``(n, C)``, not calibrated.
        labels: ``(n,)``.
        images: How many pictures they are of: fewer than n where the folds were drawn more than once.

    Returns:
        The measurements, and the temperature that follows.

    Example:
        >>> unsure = torch.tensor([[0.6, 0.4]]).repeat(100, 1)  # and right nine times in ten
        >>> labels = torch.tensor([0] * 90 + [1] * 10)
        >>> found = calibrate_held_out(unsure, labels, 100)
        >>> round(float((unsure[:1].log() / found.temperature).softmax(dim=1)[0, 0]), 2)
        0.89
    """
    sure, answers = probabilities.double().max(dim=1)
    temperature = best_temperature(probabilities.double().clamp(min=1e-8).log(), labels, images)
    return HeldOutCalibration(temperature, images, float(sure.mean()), float((answers == labels).double().mean()))


def best_temperature(logits: Tensor, labels: Tensor, images: int) -> float:
    """The temperature of least negative log-likelihood, between :data:`LOWEST` and :data:`HIGHEST`, to four decimals.

    The labels are smoothed as in Platt 1999 (Probabilistic outputs for support vector machines, section 2.2): as if
    each class had been seen once more. Otherwise predictions that are all right, as few may be by chance, would be made
    certain.

    Args:
        logits: ``(n, C)``.
        labels: ``(n,)``.
        images: How many pictures, see :func:`calibrate_held_out`.

    Returns:
        The temperature; 1 where there is no picture to find it by.

    Example:
        >>> best_temperature(torch.tensor([[4.0, 0.0]] * 8), torch.zeros(8, dtype=torch.long), 8)  # 4 / log(9)
        1.8205
    """
    from scipy.optimize import minimize_scalar  # slow to import

    if not len(logits):
        return 1.0
    classes = logits.shape[1]
    targets = torch.full(logits.shape, 1.0 / (images + classes), dtype=torch.float64)
    targets.scatter_(1, labels[:, None], (images + 1.0) / (images + classes))

    def loss(log_temperature: float) -> float:
        log_probabilities = (logits.double() / math.exp(log_temperature)).log_softmax(dim=1)
        return float(-(targets * log_probabilities).sum(dim=1).mean())

    # Convex in 1 / T, so there is one minimum, and a search within bounds finds it.
    found = minimize_scalar(
        loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded", options={"xatol": 1e-7}
    )
    return round(math.exp(found.x), DECIMALS)
