"""One measurement of a recipe: its step, its evaluation, its data, or every method's step."""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from typing import Any

import torch

from ..data import DataConfig, DataSet, dataset_info, load_dataset
from ..engine.options import RunOptions
from ..engine.processes import device_for
from ..engine.threads import cpu_threads
from ..errors import MissingDataError
from ..recipes import Recipe, changes
from .cost import bench_methods
from .data import bench_data
from .embed import bench_embed
from .evaluation import bench_eval
from .head import bench_head
from .race import Say, bench_race
from .step import bench_step

PARTS = ("step", "eval", "data")


def measure(what: str, recipe: Recipe, options: RunOptions, config: DataConfig) -> dict[str, Any]:
    """Measures, in the recipe's number of threads.

    Args:
        what: ``step``, ``eval``, ``data``, ``all`` of these; ``embed``; ``head``; or ``methods``: each one's step.
        recipe: What is measured.
        options: Precision, device, compilation.
        config: Where the images are; random ones of the same shape are taken where they are not on disk.

    Returns:
        The figures, with the recipe, the images, the machine and the versions beside them.
    """
    with cpu_threads(recipe.cpu_threads or torch.get_num_threads()):
        return {"recipe": recipe.name, **_measure(what, recipe, options, config)}


def measure_race(
    recipe: Recipe, target: float, seeds: int, options: RunOptions, config: DataConfig, say: Say = print
) -> dict[str, Any]:
    """:func:`muscle_zoo.bench.race.bench_race`, with the recipe, the machine and the versions beside it."""
    with cpu_threads(recipe.cpu_threads or torch.get_num_threads()):
        figures = bench_race(recipe, target, seeds, options, config, say)
        return {"recipe": recipe.name, "changed": changes(recipe), **figures, **_machine(device_for(options.cpu))}


def _measure(what: str, recipe: Recipe, options: RunOptions, config: DataConfig) -> dict[str, Any]:
    dataset, test_images = _images(recipe, config)
    if dataset.info.name != recipe.dataset:  # random images have no 4,000 labels
        recipe = replace(recipe, dataset=dataset.info.name, labels=dataset.info.num_classes)
    device = device_for(options.cpu)
    if what == "methods":
        costs, mi_ms = bench_methods(recipe, dataset, options)
        figures: dict[str, Any] = {"methods": [asdict(cost) for cost in costs], "mi_ms": round(mi_ms, 3)}
        figures["precision"] = options.mixed_precision or "no"
    elif what == "all":
        figures = {part: _part(part, recipe, dataset, options, test_images, device) for part in PARTS}
    else:
        figures = _part(what, recipe, dataset, options, test_images, device)
    return {"images": dataset.info.name, **figures, **_machine(device)}


def _part(
    part: str, recipe: Recipe, dataset: DataSet, options: RunOptions, test_images: int, device: torch.device
) -> dict[str, Any]:
    if part == "step":
        return bench_step(recipe, dataset, options, test_images)
    if part == "embed":
        return bench_embed(recipe, dataset, device)
    if part == "head":
        return bench_head(recipe, dataset, options)
    return bench_eval(recipe, dataset, options) if part == "eval" else bench_data(recipe, dataset, device)


def _images(recipe: Recipe, config: DataConfig) -> tuple[DataSet, int]:
    """The recipe's images, or random ones of the same shape and number of classes.

    Returns:
        The data set, and how many test images the recipe's own has.
    """
    try:
        dataset = load_dataset(recipe.dataset, replace(config, download=False), recipe.image_size)
        return dataset, len(dataset.test)
    except MissingDataError:
        info = dataset_info(recipe.dataset)
    size = (info.input_size[0], *([recipe.image_size] * 2 if recipe.image_size else info.input_size[1:]))
    return load_dataset(f"synthetic:{'x'.join(map(str, size))}x{info.num_classes}"), info.test_size


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"threads": torch.get_num_threads(), "device": name, "versions": versions}
