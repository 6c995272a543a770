"""Written weights -> the same with their temperature in the classifier, and what config.json says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import normalize
from ..data.augment import parse_policy
from ..engine.build import Data
from ..engine.calibration import calibrate, choose_images
from ..engine.classifier import fold_temperature
from ..engine.evaluate import Metrics
from ..errors import CalibrationError
from ..methods import create_method
from ..recipes import Recipe

FOLD_IMAGES = 64  # whose logits are compared before and after


@dataclass(frozen=True)
class Written:
    """A weights file, and what it does.

    Attributes:
        tensors: What it holds.
        sha256: Of the file.
        model: What plain timm makes of it, in evaluation mode.
        metrics: Of that model.
    """

    tensors: dict[str, Tensor]
    sha256: str
    model: nn.Module
    metrics: Metrics


def with_temperature(
    written: Written, recipe: Recipe, data: Data, write: Callable[[dict[str, Tensor]], Written]
) -> tuple[Written, dict[str, Any]]:
    """Finds the temperature of written weights on the unlabeled pool, and writes them with it in the classifier.

    The weights are measured as they were written, float16 parameters included. The classifier's become float32, for in
    float16 the quotients would be rounded, and images that are nearly a toss would get another class.

    Args:
        written: The weights as they are; its model is changed.
        recipe: What they were trained by.
        data: What they were trained on.
        write: Writes tensors into the file and evaluates what is in it.

    Returns:
        What is in the file now, and config.json's ``calibration``. A network that cannot be calibrated is left at
        temperature 1, and ``why`` says so.
    """
    before = written.metrics
    uncalibrated = {"nll_uncalibrated": before.nll, "ece_uncalibrated": before.ece}
    try:
        facts, tensors = _fold(written, recipe, data)
        if facts["temperature"] == 1:
            return written, {**facts, **uncalibrated}
        calibrated = write(tensors)
        if calibrated.metrics.top1 == before.top1:
            return calibrated, {**facts, **uncalibrated}
        written = write(written.tensors)
        raise CalibrationError(
            f"with temperature {facts['temperature']:g} its top-1 would be {calibrated.metrics.top1:.6f}, not "
            f"{before.top1:.6f}: two logits of an image differ by less than their rounding"
        )
    except CalibrationError as error:
        return written, {"temperature": 1.0, "why": str(error), **uncalibrated}


def _fold(written: Written, recipe: Recipe, data: Data) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What was measured, and the tensors with the temperature in the classifier; the written ones where it is 1."""
    info, train, split = data.dataset.info, data.dataset.train, data.split
    views = create_method(recipe.method, recipe.options).views
    calibration = calibrate(
        written.model,
        train,
        info,
        parse_policy("weak", recipe.weak),
        recipe.seed,
        labels_per_class=len(split.labeled) / info.num_classes,
        saw_strong=any(view.policy == "strong" for view in views.values()),
        pool=split.unlabeled,
    )
    facts = calibration.to_dict()
    if calibration.temperature == 1:
        return facts, written.tensors
    positions = torch.tensor(choose_images(recipe.seed, split.unlabeled, FOLD_IMAGES))
    (raw,) = train.batches([positions])
    images = normalize(raw.to(next(written.model.parameters()).device), info)
    names = fold_temperature(written.model, calibration.temperature, images)
    state = written.model.state_dict()
    return facts, {**written.tensors, **{name: state[name].cpu().clone() for name in names}}
