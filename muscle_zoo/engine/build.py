"""A recipe's data, network and optimiser."""

from __future__ import annotations

import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from ..data import DataSet, LabelledImages, Split, load_dataset, make_split
from ..errors import InputError, near
from ..recipes import Recipe


def prepare_data(recipe: Recipe) -> tuple[DataSet, Split, LabelledImages]:
    """Loads a recipe's data set, makes its split, and picks the images it is evaluated on.

    Raises:
        InputError: The data set is unknown, or the label budget does not fit it.
    """
    dataset = load_dataset(recipe.dataset)
    train, info = dataset.train, dataset.info
    split = make_split(recipe.dataset, train.labels.tolist(), info.num_classes, recipe.labels, recipe.seed, recipe.fold)
    if recipe.fold == "test":
        return dataset, split, dataset.test
    held_out = torch.tensor(split.held_out)
    return dataset, split, LabelledImages(train.images[held_out], train.labels[held_out])


def build_model(recipe: Recipe, dataset: DataSet) -> nn.Module:
    """The recipe's network, with the initial weights of its seed."""
    if not timm.is_model(recipe.arch):
        raise InputError(f"arch={recipe.arch} is unknown to timm; {near(recipe.arch, timm.list_models())}")
    info = dataset.info
    torch.manual_seed(recipe.seed)
    model = timm.create_model(
        recipe.arch, num_classes=info.num_classes, in_chans=info.input_size[0], drop_rate=recipe.drop_rate
    )
    least, size = model.pretrained_cfg.get("min_input_size") or (1, 1, 1), info.input_size
    if min(size[1:]) < min(least[1:]):
        raise InputError(
            f"arch={recipe.arch} takes images of {least[1]}x{least[2]} and more, {info.name} has {size[1]}x{size[2]}; "
            "give another arch"
        )
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.bn_momentum
    return model.to(memory_format=torch.channels_last)  # faster on CPU and GPU; the numbers are the same


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and norms do not decay."""
    if recipe.optimizer not in list_optimizers():
        raise InputError(
            f"optimizer={recipe.optimizer} is unknown to timm; {near(recipe.optimizer, list_optimizers())}"
        )
    return create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
