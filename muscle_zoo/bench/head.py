"""What a step of a classifier on embeddings costs, next to a linear layer's forward and backward."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data import Budget, DataSet, make_split
from ..data.embedded import EmbeddedImages
from ..engine.build import Data
from ..engine.head import Head
from ..engine.options import RunOptions
from ..errors import InputError
from ..methods import create_method
from ..recipes import Recipe
from .step import ROUNDS, Stepper
from .timing import median_seconds

PICTURES = 20_000
WIDTH = 1280  # numbers of an embedding: EfficientNet-Lite0's
IMAGES = 512  # views that go through the classifier in a step, about: as many as whole batches give


def bench_head(recipe: Recipe, dataset: DataSet, options: RunOptions) -> dict[str, Any]:
    """Measures a step of a recipe with ``tune=head`` on random embeddings, as a run takes it: its log included.

    Args:
        recipe: Method, mu and optimizer are its; the batch is made so large that about :data:`IMAGES` views of a step
            go through the classifier.
        dataset: Says how many classes there are.
        options: How.

    Returns:
        ``images_per_step``: the views counted; ``steps_per_s``; ``steps_per_cpu_s``, of processor time, which is the
        same whatever else the machine does; of a linear layer alone, its forward, cross-entropy and backward on as many
        embeddings that lie ready, ``bare_steps_per_s``; ``fraction_of_bare``; and the ``share`` of the parts.

    Raises:
        InputError: The recipe trains more than a classifier.
    """
    if recipe.tune != "head":
        raise InputError(f"bench head: tune={recipe.tune} trains more than a classifier; give a recipe of `frozen`")
    views = create_method(recipe.method, recipe.options).views.values()
    of_one_labeled = sum(recipe.mu if view.source == "unlabeled" else 1 for view in views)
    recipe = replace(recipe, batch_size=max(1, IMAGES // of_one_labeled), accumulate=1, teacher="", classifier="linear")
    with tempfile.TemporaryDirectory() as folder:
        data = random_embeddings(recipe, dataset)
        stepper = Stepper(recipe, dataset, options, Path(folder), data)
        device = stepper.trainer.device
        bare = bare_layer(stepper.images, dataset.info.num_classes, device)
        stepper.breakdown(2)
        seconds = median_seconds({"step": stepper, "bare": bare}, device)
        parts = stepper.breakdown(ROUNDS)
        cpu = cpu_seconds(stepper, max(1, int(0.2 / seconds["step"])))
    return {
        "images_per_step": stepper.images,
        "width": WIDTH,
        "steps_per_s": round(1 / seconds["step"], 1),
        "steps_per_cpu_s": round(1 / cpu, 1),
        "bare_steps_per_s": round(1 / seconds["bare"], 1),
        "fraction_of_bare": round(seconds["bare"] / seconds["step"], 3),
        "share": {name: round(value / sum(parts.values()), 4) for name, value in parts.items()},
    }


def random_embeddings(recipe: Recipe, dataset: DataSet) -> Data:
    """Data of a recipe whose embeddings are noise, in the draws that it asks for."""
    info = dataset.info
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(PICTURES, WIDTH, generator=generator)
    draws = tuple(plain.half() for _ in range(recipe.embedding_views))  # what is in them costs nothing
    labels = torch.arange(PICTURES) % info.num_classes
    mean, std = torch.zeros(WIDTH), torch.full((WIDTH,), WIDTH**0.5)
    images = EmbeddedImages(plain, labels, mean, std, {"weak": draws, "strong": draws})
    budget = Budget(labels=4 * info.num_classes, seed=recipe.seed)
    split = make_split("embeddings", labels.tolist(), info.num_classes, budget, info.class_names)
    embedded = DataSet(replace(info, input_size=(WIDTH, 1, 1), mean=(0.0,), std=(1.0,)), images, images)
    head = Head(nn.Linear(WIDTH, info.num_classes), mean, std, "00" * 32)
    return Data(embedded, split, images.subset(range(16)), head=head)


def bare_layer(images: int, num_classes: int, device: torch.device) -> Callable[[], None]:
    """A linear layer's forward, cross-entropy and backward."""
    layer = nn.Linear(WIDTH, num_classes, device=device)
    x = torch.randn(images, WIDTH, device=device)
    y = torch.arange(images, device=device) % num_classes

    def step() -> None:
        F.cross_entropy(F.linear(x, layer.weight, layer.bias), y).backward()
        layer.zero_grad(set_to_none=True)

    return step


def cpu_seconds(work: Callable[[], object], calls: int, runs: int = 5) -> float:
    """Seconds of processor time of a call, the least of some runs."""
    times = []
    for _ in range(runs):
        began = time.process_time()
        for _ in range(calls):
            work()
        times.append((time.process_time() - began) / calls)
    return max(min(times), 1e-9)
