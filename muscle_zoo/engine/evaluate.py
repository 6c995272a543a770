"""Accuracy, likelihood and calibration of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSetInfo, ImageSource, normalize
from ..errors import InputError

ECE_BINS = 15
_PIXELS = 2**25  # numbers in one batch: 128 MiB


@dataclass(frozen=True)
class Metrics:
    """What a classifier does on a set of images.

    Attributes:
        top1: Share of images whose most probable class is right, 0 to 1.
        top5: Share whose class is among the five most probable (or all, where there are fewer).
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error over 15 equal bins of confidence, 0 to 1 (Guo et al. 2017, arXiv 1706.04599).
        per_class: Accuracy of each class; None for a class without images.
        n: Images.
    """

    top1: float
    top5: float
    nll: float
    ece: float
    per_class: list[float | None]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def count(logits: Tensor, labels: Tensor) -> Tensor:
    """Reduces a batch to sums that add up over batches and processes.

    Args:
        logits: ``(n, C)``.
        labels: ``(n,)`` int64.

    Returns:
        float64 vector: hits in the first place, hits in the first five, negative log-likelihood, images; then per
        calibration bin the images, their confidence and their hits; then per class the images and the hits.
    """
    num_classes = logits.shape[1]
    probabilities = logits.double().softmax(dim=1)
    confidence, guess = probabilities.max(dim=1)
    hit = (guess == labels).double()
    top = logits.topk(min(5, num_classes), dim=1).indices
    first_five = (top == labels[:, None]).any(dim=1).double()
    nll = F.cross_entropy(logits.double(), labels, reduction="sum")
    bins = (confidence * ECE_BINS).ceil().long().sub(1).clamp(0, ECE_BINS - 1)
    per_bin = logits.new_zeros(3, ECE_BINS, dtype=torch.float64)
    per_bin.index_add_(1, bins, torch.stack([torch.ones_like(hit), confidence, hit]))
    per_class = logits.new_zeros(2, num_classes, dtype=torch.float64)
    per_class.index_add_(1, labels, torch.stack([torch.ones_like(hit), hit]))
    head = torch.stack([hit.sum(), first_five.sum(), nll, torch.ones_like(hit).sum()])
    return torch.cat([head, per_bin.flatten(), per_class.flatten()])


def summarize(counts: Tensor) -> Metrics:
    """Turns the sums of :func:`count` into metrics."""
    hits, first_five, nll, n = counts[:4].tolist()
    images, confidence, bin_hits = counts[4 : 4 + 3 * ECE_BINS].view(3, ECE_BINS)
    class_images, class_hits = counts[4 + 3 * ECE_BINS :].view(2, -1).tolist()
    return Metrics(
        top1=hits / n,
        top5=first_five / n,
        nll=nll / n,
        ece=float((confidence - bin_hits).abs().sum() / images.sum()),
        per_class=[h / k if k else None for h, k in zip(class_hits, class_images, strict=True)],
        n=int(n),
    )


def evaluate(
    model: nn.Module,
    data: ImageSource,
    info: DataSetInfo,
    batch_size: int = 1024,
    rank: int = 0,
    world_size: int = 1,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Metrics:
    """Evaluates a classifier in float32, in evaluation mode, and leaves its mode as it was.

    Args:
        model: Images ``(n, C, H, W)`` to logits.
        data: Images and their classes.
        info: Mean and standard deviation.
        batch_size: Images per forward, at most; large ones are fewer.
        rank: This process takes every ``world_size``-th image from ``rank`` on, so that no image counts twice.
        world_size: Processes.
        reduce: Sums a tensor over the processes; needed when there are several.

    Returns:
        The metrics over all images.

    Raises:
        InputError: There are fewer images than processes.
    """
    counts = count_images({"": model}, data, info, batch_size, rank, world_size)[""]
    return summarize(reduce(counts.to(next(model.parameters()).device)).cpu() if reduce is not None else counts)


@torch.inference_mode()
def count_images(
    models: Mapping[str, nn.Module],
    data: ImageSource,
    info: DataSetInfo,
    batch_size: int = 1024,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Tensor]:
    """Runs classifiers over a process's share of the images, which are read and decoded once for all of them.

    Args:
        models: Classifiers by name, on one device.
        data: Images and their classes.
        info: Mean and standard deviation.
        batch_size: Images per forward, at most; large ones are fewer.
        rank: This process takes every ``world_size``-th image from ``rank`` on.
        world_size: Processes.

    Returns:
        The sums of :func:`count` by name of the classifier.

    Raises:
        InputError: There are fewer images than processes.
    """
    if len(data) < world_size:
        raise InputError(f"{len(data)} images to evaluate are fewer than processes ({world_size}); give more of them")
    modes = {name: model.training for name, model in models.items()}
    device = next(next(iter(models.values())).parameters()).device
    batch_size = min(batch_size, max(8, _PIXELS // math.prod(info.input_size)))
    totals: dict[str, Tensor] = {}
    positions = torch.arange(rank, len(data), world_size).split(batch_size)
    for model in models.values():
        model.eval()
    for chosen, raw in zip(positions, data.batches(positions), strict=True):
        batch = normalize(raw.to(device, non_blocking=True), info)
        batch = batch.contiguous(memory_format=torch.channels_last)
        for name, model in models.items():
            logits = model(batch).float().cpu()  # not every device has float64
            counts = count(logits, data.labels[chosen])
            totals[name] = totals[name] + counts if name in totals else counts
    for name, model in models.items():
        model.train(modes[name])
    return totals
