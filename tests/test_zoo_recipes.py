"""Recipes that nobody trained yet: each takes a step at its own shape, class count, set size and label budget."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from muscle_zoo import get_recipe
from muscle_zoo.data import DataSet, LabeledImages, dataset_info, make_split
from muscle_zoo.data.splits import Budget
from muscle_zoo.engine.build import Data
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.recipes.names import recipe_names

SETS = ("cifar10", "cifar100", "svhn", "stl10", "mini_imagenet", "imagenet")
UNTRAINED = [name for name in recipe_names() if get_recipe(name).dataset in SETS]


def stand_in(name: str) -> DataSet:
    """As many images as the set has (of imagenet a tenth), all one random image, so that they need no memory."""
    info = dataset_info(name)
    size = min(info.train_size, 128_000)
    picture = torch.randint(256, (1, *info.input_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = LabeledImages(picture.expand(size, -1, -1, -1), torch.arange(size) % info.num_classes)
    return DataSet(info, images, images)


def test_there_are_recipes_of_all_sets_and_budgets() -> None:
    budgets = {
        dataset: {str(get_recipe(name).labels) for name in UNTRAINED if get_recipe(name).dataset == dataset}
        for dataset in SETS
    }
    assert budgets == {
        "cifar10": {"40", "250", "4000"},
        "cifar100": {"400", "2500", "4000", "10000"},
        "svhn": {"40", "250", "1000"},
        "stl10": {"40", "250", "1000"},
        "mini_imagenet": {"4000", "10000"},
        "imagenet": {"1pct", "10pct"},
    }
    assert len(UNTRAINED) == 4 * sum(map(len, budgets.values()))


EVERY_METHOD_AT = ("cifar10_40", "cifar100_400", "svhn_40", "stl10_40", "mini_imagenet_4000", "imagenet_1pct")
# Every method at one budget of each set, and at the others the one that has all the terms.
TRIED = [name for name in UNTRAINED if name.endswith(EVERY_METHOD_AT) or ".muscle_fixmatch_" in name]


@pytest.mark.parametrize("name", TRIED)
def test_recipe_takes_a_step(name: str, tmp_path: Path) -> None:
    recipe = get_recipe(name, {"batch_size": 2, "mu": 1, "steps": 1})
    dataset = stand_in(recipe.dataset)
    budget = Budget(recipe.labels, recipe.seed)
    split = make_split(recipe.dataset, dataset.train.labels.tolist(), dataset.info.num_classes, budget)
    wanted = recipe.labels if isinstance(recipe.labels, int) else int(recipe.labels.removesuffix("pct")) * 1280
    assert len(split.labeled) == wanted
    folder = RunFolder(tmp_path / "run")
    folder.open(recipe)
    trainer = Trainer(recipe, Data(dataset, split, dataset.test), RunOptions(cpu=True).accelerator(folder, 1))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.model.train()
    terms, _ = trainer.step(0, trainer.batches.at(0), True)
    assert math.isfinite(float(terms["loss"])), terms
    assert not all(a.equal(b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    head = list(trainer.model.parameters())[-1]
    assert len(head) == dataset.info.num_classes
