"""Written weights -> the same with their temperature in the classifier, and what config.json says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..data import normalize
from ..data.augment import parse_policy
from ..engine.build import Data
from ..engine.calibration import calibrate, calibrate_logits, choose_images
from ..engine.classifier import fold_temperature
from ..engine.evaluate import Metrics
from ..engine.frozen import logits_by_view
from ..engine.held_out import HeldOutCalibration
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
    written: Written,
    recipe: Recipe,
    data: Data,
    write: Callable[[dict[str, Tensor]], Written],
    held_out: HeldOutCalibration | None = None,
) -> tuple[Written, dict[str, Any]]:
    """Writes weights with their temperature in the classifier: of held-out pictures, or found on the unlabeled pool.

    The weights are measured as they were written, float16 parameters included. The classifier's become float32, for in
    float16 the quotients would be rounded, and images that are nearly a toss would get another class.

    Args:
        written: The weights as they are; its model is changed.
        recipe: What they were trained by.
        data: What they were trained on.
        write: Writes tensors into the file and evaluates what is in it.
        held_out: What held-out pictures say of the temperature, where there were any.

    Returns:
        What is in the file now, and config.json's ``calibration``. A network that cannot be calibrated is left at
        temperature 1, and ``why`` says so.
    """
    before = written.metrics
    uncalibrated = {"nll_uncalibrated": before.nll, "ece_uncalibrated": before.ece}
    try:
        facts = held_out.to_dict() if held_out is not None else _measure(written, recipe, data)
        tensors = _fold(written, recipe, data, facts["temperature"])
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


def by_embeddings(recipe: Recipe) -> bool:
    """Whether a run's network is measured on cached embeddings: its backbone was frozen, and no process waits.

    Where there are several processes the first one exports alone, and the cache is made by all of them.
    """
    return recipe.tune == "head" and recipe.embedding_views > 1 and PartialState().num_processes == 1


def _measure(written: Written, recipe: Recipe, data: Data) -> dict[str, Any]:
    """What the unlabeled pool says of the temperature."""
    info, train, split = data.dataset.info, data.dataset.train, data.split
    views = create_method(recipe.method, recipe.options).views
    labels_per_class = len(split.labeled) / info.num_classes
    saw_strong = any(view.policy == "strong" for view in views.values())
    if by_embeddings(recipe) and split.unlabeled:
        positions = torch.tensor(choose_images(recipe.seed, split.unlabeled))
        logits = logits_by_view(written.model, recipe, data, positions)
        return calibrate_logits(logits, labels_per_class, saw_strong).to_dict()
    weak = parse_policy("weak", recipe.weak)
    return calibrate(
        written.model, train, info, weak, recipe.seed, labels_per_class, saw_strong, split.unlabeled
    ).to_dict()


def _fold(written: Written, recipe: Recipe, data: Data, temperature: float) -> dict[str, Tensor]:
    """The tensors with a temperature in the classifier; the written ones where it is 1."""
    if temperature == 1:
        return written.tensors
    pool = data.split.unlabeled or data.split.labeled
    (raw,) = data.dataset.train.batches([torch.tensor(choose_images(recipe.seed, pool, FOLD_IMAGES))])
    images = normalize(raw.to(next(written.model.parameters()).device), data.dataset.info)
    names = fold_temperature(written.model, temperature, images)
    state = written.model.state_dict()
    return {**written.tensors, **{name: state[name].cpu().clone() for name in names}}
