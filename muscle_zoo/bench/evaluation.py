"""What an evaluation costs."""

from __future__ import annotations

from typing import Any

import torch

from ..data import DataSet, normalize
from ..engine.build import build_model, to_device
from ..engine.evaluate import evaluate
from ..engine.options import RunOptions
from ..recipes import Recipe
from .timing import median_seconds

IMAGES = 2048  # at most: an evaluation's time grows with their number


def bench_eval(recipe: Recipe, dataset: DataSet, options: RunOptions) -> dict[str, Any]:
    """Measures the evaluation of a recipe's network in float32.

    Args:
        recipe: Its network is measured.
        dataset: Its test images are read, at most 2,048 of them.
        options: Where.

    Returns:
        ``images_per_s``; ``bare_images_per_s``: a forward on one batch of as many normalized images, in turn with the
        evaluations; ``fraction_of_bare``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    images = to_device(dataset.test.subset(range(min(len(dataset.test), IMAGES))), device)
    model = build_model(recipe, dataset).to(device).eval()
    size = min(len(images), 1024)
    x = normalize(next(images.batches([torch.arange(size)])).to(device), dataset.info)
    x = x.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        model(x)

    def whole() -> None:
        evaluate(model, images, dataset.info)

    seconds = median_seconds({"eval": whole, "bare": bare}, device, runs=3)
    rates = {"images_per_s": len(images) / seconds["eval"], "bare_images_per_s": size / seconds["bare"]}
    fraction = rates["images_per_s"] / rates["bare_images_per_s"]
    return {**{name: round(rate, 1) for name, rate in rates.items()}, "fraction_of_bare": round(fraction, 3)}
