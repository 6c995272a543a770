"""How fast views are made, and how fast pictures are read."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Batches, DataSet, ImageFiles, ImageSource, LabeledImages, Split, normalize
from ..data.batches import draw_random_numbers
from ..data.images import begin_worker
from ..engine.build import split_of
from ..engine.stage_timer import StageTimer
from ..errors import InputError
from ..methods.base import View
from ..recipes import Recipe
from .timing import RUNS, median_seconds

PICTURE_RUNS = 3
_VIEWS = {"weak": View("unlabeled", "weak"), "strong": View("unlabeled", "strong")}


def bench_data(recipe: Recipe, dataset: DataSet, device: torch.device) -> dict[str, Any]:
    """Measures what a recipe's data cost.

    Args:
        recipe: Its batch size, mu and policies are measured.
        dataset: The images, in memory or streamed.
        device: Where the views are made.

    Returns:
        ``pairs_per_s``: a weak and a strong view each, drawn, made and normalized, of ``batch_size * mu`` images;
        ``share``: which part of that time goes where; ``bytes_resident``: of the images in memory; for streamed sets
        ``pictures_per_s`` and, where the folder is one of classes, ``bare_pictures_per_s`` of torchvision's ImageFolder
        and a plain DataLoader with the same workers, batches and transforms.
    """
    if recipe.mu < 1:
        raise InputError(f"mu={recipe.mu}: there are no unlabeled images to make pairs of; give 1 or more")
    dataset, split = split_of(recipe, dataset)
    train = dataset.train
    result: dict[str, Any] = {"dataset": dataset.info.name, "input_size": list(dataset.info.input_size)}
    parts: tuple[ImageSource, ...] = (train, dataset.test)
    result["bytes_resident"] = sum(part.images.nbytes for part in parts if isinstance(part, LabeledImages))
    in_memory = train
    if isinstance(train, ImageFiles):
        result |= _bench_pictures(train, recipe.batch_size * recipe.mu)
        in_memory = train.subset(range(min(len(train), 1000))).load()
    elif isinstance(train, LabeledImages):
        in_memory = train.to(device)
    if isinstance(train, ImageFiles):  # the views are those of any images of this size
        here = tuple(range(len(in_memory)))
        split = Split(split.dataset, 1, split.seed, "test", here[:1], here, ())
    batches = Batches(recipe, in_memory, dataset.info, split, _VIEWS, device=device)
    size = recipe.batch_size * recipe.mu
    steps = itertools.count()

    def one() -> None:
        batches.at(next(steps))

    seconds = median_seconds({"pairs": one}, device)["pairs"]
    result |= {"pairs_per_s": round(size / seconds, 1), "ms_per_step": round(1000 * seconds, 3)}
    medians = _parts(batches, recipe, device)
    result["share"] = {name: round(s / sum(medians.values()), 3) for name, s in medians.items()}
    return result


def _parts(batches: Batches, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Median seconds of each part of a step, one after the other."""
    laps = StageTimer(device)
    for step in range(3 * RUNS):
        laps.start()
        positions = batches.positions(step)["unlabeled"]
        random_numbers = {
            name: draw_random_numbers(
                recipe.seed, step, view, recipe.batch_size * recipe.mu, batches.policies[name].num_random
            )
            for name, view in _VIEWS.items()
        }
        laps.lap("draw")
        raw = next(batches.images.batches([positions])).to(device)
        laps.lap("gather")
        views = []
        for name in _VIEWS:
            views.append(batches.policies[name](raw, random_numbers[name]))
            laps.lap(name)
        for view in views:
            normalize(view, batches.info)
        laps.lap("normalize")
    return laps.medians(skip=RUNS)


def _bench_pictures(files: ImageFiles, batch_size: int) -> dict[str, Any]:
    """Pictures per second in random order, ours and torchvision's in turn; the first round warms up."""
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    readers: dict[str, Callable[[], Iterator[Tensor]]] = {
        "pictures_per_s": lambda: files.batches(order.split(batch_size))
    }
    if (bare := _image_folder(files)) is not None:
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(
            bare,
            batch_size,
            shuffle=True,
            num_workers=files.workers,
            generator=generator,
            worker_init_fn=begin_worker,
        )
        readers["bare_pictures_per_s"] = lambda: (images for images, _ in loader)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(1 + PICTURE_RUNS):
        for name, read in readers.items():
            began = time.perf_counter()
            count = sum(len(images) for images in read())
            rates[name].append(count / (time.perf_counter() - began))
    result: dict[str, Any] = {name: round(statistics.median(values[1:]), 1) for name, values in rates.items()}
    if "bare_pictures_per_s" in result:
        result["fraction_of_bare"] = round(result["pictures_per_s"] / result["bare_pictures_per_s"], 3)
    return {**result, "workers": files.workers}


def _image_folder(files: ImageFiles) -> Any:
    """ImageFolder of torchvision, of the same pictures; None where they do not lie in folders of classes."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    above = {name.split("/")[0] for name in files.names} if all(name.count("/") == 2 for name in files.names) else {""}
    is_apart = len(above) == 1 and all(name.count("/") in (1, 2) for name in files.names)
    if not is_apart or not isinstance(files.root, Path):
        return None
    height, width = files.input_size[1:]
    steps = [v2.Grayscale()] if files.input_size[0] == 1 else []
    steps += [v2.Resize(height, v2.InterpolationMode.BICUBIC), v2.CenterCrop((height, width)), v2.PILToTensor()]
    bare = ImageFolder(str(files.root / next(iter(above))), v2.Compose(steps))
    return bare if len(bare) == len(files) else None
