"""How long it will take, measured on a few pictures and a few steps before anything is begun."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from ..checkpoints.architecture import build_arguments
from ..checkpoints.factory import create_model, normalization_of
from ..data import DataSetInfo
from ..data.images import ImageFiles
from ..engine.backbone import split_network
from ..engine.embeddings import PLAIN, batch_size, embed_batch
from ..engine.frozen import draws_of
from ..engine.threads import faster_threads
from ..methods import takes_steps
from ..recipes import Recipe
from .plan import Plan

PICTURES = 8  # that are embedded and read to measure
STEPS = 3  # that are taken to measure
EXPORT = 10.0  # seconds, about: what loading, calibrating and writing the network takes
_OVERHEAD = 1.5  # of a step, over the arithmetic that is measured: views are gathered, weights averaged


@dataclass(frozen=True)
class Speed:
    """What the work takes here.

    Attributes:
        embedding_threads: CPU threads by which pictures are embedded faster.
        step_threads: CPU threads by which steps are taken faster.
        reading: Seconds to read the pictures.
        embedding: Seconds to embed them; less where some are in the cache.
        comparing: Seconds for the folds.
        training: Seconds for the run on all labels, and its export.
    """

    embedding_threads: int
    step_threads: int
    reading: float
    embedding: float
    comparing: float
    training: float

    @property
    def total(self) -> float:
        """Seconds for all."""
        return self.reading + self.embedding + self.comparing + self.training


def measure(plan: Plan, device: torch.device, workers: int = 0) -> Speed:
    """Measures what a plan takes, in a few seconds.

    Args:
        plan: What is to be done.
        device: Where.
        workers: Processes that read pictures.

    Raises:
        InputError: The backbone does not take these pictures.
        WeightsError: There are no such weights.
    """
    recipe, found = plan.control, plan.found
    info = _info(plan)
    arguments = build_arguments(recipe, info)
    network = create_model(recipe.init, pretrained=True, **arguments).to(device)
    backbone = split_network(network.to(memory_format=torch.channels_last), info.input_size)
    size = min(PICTURES, batch_size(info, device))
    images = torch.zeros(size, *info.input_size, dtype=torch.uint8)
    threads, seconds = faster_threads(lambda: embed_batch(backbone, images, info, (PLAIN,), 0))
    labeled, test = sum(found.labeled), sum(found.test)
    views = 1 + sum(map(len, draws_of(recipe, list(plan.recipes.values())).values()))
    # The exported network embeds what it is evaluated on again, for its weights are rounded to half precision.
    passes = (labeled + found.unlabeled) * views + test + (test or labeled)
    heads = {m: _seconds_of_steps(r, backbone.width, len(plan.classes), device) for m, r in plan.recipes.items()}
    steps = max(heads.values(), key=lambda pair: pair[1])
    return Speed(
        embedding_threads=threads,
        step_threads=steps[0],
        reading=_seconds_of_reading(plan, info, workers) * (labeled + found.unlabeled + test),
        embedding=passes * seconds / size,
        comparing=plan.folds * plan.repeats * sum(took for _, took in heads.values()),
        training=max(took for _, took in heads.values()) + EXPORT,
    )


def _info(plan: Plan) -> DataSetInfo:
    """What the pictures become, as far as measuring takes it."""
    side = plan.side or 32
    channels = 1 if plan.gray else 3
    blank = DataSetInfo(
        "folder", "", (channels, side, side), plan.classes, (0.0,) * channels, (1.0,) * channels, 0, 0, "", ""
    )
    mean, std = normalization_of(plan.control.init, blank)
    return DataSetInfo("folder", "", (channels, side, side), plan.classes, mean, std, 0, 0, "", "")


def _seconds_of_reading(plan: Plan, info: DataSetInfo, workers: int) -> float:
    """Of a picture, by so many workers."""
    bad = set(plan.found.unreadable)
    names = [name for name, _ in plan.listing.train if name not in bad]
    chosen = tuple(names[:: max(1, len(names) // PICTURES)][:PICTURES])
    files = ImageFiles(plan.listing.root, chosen, torch.zeros(len(chosen), dtype=torch.int64), info.input_size)
    began = time.perf_counter()
    files.load()
    return (time.perf_counter() - began) / len(chosen) / max(1, workers)


def _seconds_of_steps(recipe: Recipe, width: int, num_classes: int, device: torch.device) -> tuple[int, float]:
    """Threads by which a method's steps are faster, and the seconds of all of them, about."""
    if not takes_steps(recipe.method):
        return 1, 0.5
    rows = recipe.batch_size * (1 + (2 * recipe.mu if recipe.method != "supervised" else 0))
    layer = nn.Linear(width, num_classes).to(device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-6)
    embeddings = torch.zeros(2 * rows, width, device=device)

    def work() -> None:
        for _ in range(STEPS):
            chosen = embeddings[torch.randperm(len(embeddings), device=device)[:rows]]
            layer(chosen).logsumexp(dim=1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    threads, seconds = faster_threads(work, repeats=2)
    return threads, _OVERHEAD * seconds / STEPS * recipe.steps
