"""The weights that a recipe starts from: its ``init``."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from ..checkpoints import weights
from ..checkpoints.card import BLOCK
from ..checkpoints.factory import create_model
from ..checkpoints.hub_names import canonical_name
from ..data.catalog import FOLDER
from ..errors import InputError, MuscleZooError, one_line
from ..methods import trains_classifier
from ..recipes import Recipe
from ..recipes.defaults import EMBEDDED, PRETRAINED

__all__ = ["arch_of", "require_init", "require_unseen_fold", "with_starting_weights"]


def require_init(recipe: Recipe) -> None:
    """Refuses to train a recipe of a variant that starts from pretrained weights without any.

    The recipe itself is whole: the table of a name's runs needs it, whatever ``init`` they were given.

    Raises:
        InputError: ``init`` is empty.
    """
    if recipe.variant in PRETRAINED and not recipe.init:
        raise InputError(
            f"init is empty: variant {recipe.variant} starts from pretrained weights, and timm has none of "
            f"{recipe.arch}; give init=, or take arch={next(iter(EMBEDDED))}, whose weights need no network"
        )


def require_unseen_fold(field: str, target: str, recipe: Recipe) -> None:
    """Refuses, for a run that is measured on the dev fold, a classifier that was trained on those images.

    Args:
        field: Of the recipe, that names it.
        target: Its name, run folder or repo.
        recipe: What is trained.

    Raises:
        InputError: Its config.json says so.
    """
    found = weights.find_config(target) if recipe.fold == "dev" else None
    block = found[0].get(BLOCK) if found is not None else None
    theirs = block.get("recipe") if isinstance(block, dict) else None
    if not isinstance(theirs, dict) or theirs.get("dataset") != recipe.dataset or theirs.get("fold") != "test":
        return
    if trains_classifier(str(theirs.get("method"))):  # pre-training sees no labels, whichever images are in its pool
        raise InputError(
            f"{field}={target} was trained with fold=test, so it has seen the images that fold=dev is measured on; "
            "give one that was trained with fold=dev"
        )


def with_starting_weights(recipe: Recipe, arguments: dict[str, Any]) -> nn.Module:
    """A recipe's network with the weights of its ``init``; timm adapts them to other channels and classes.

    Args:
        recipe: Its architecture must be that of the weights.
        arguments: What it is built with, see :func:`muscle_zoo.checkpoints.architecture.build_arguments`.

    Raises:
        InputError: They are weights of another architecture, or lack what these arguments need.
        WeightsError: They are missing or damaged.
        DownloadError: They could not be downloaded.
    """
    init = recipe.init
    if recipe.dataset != FOLDER:  # a run on other pictures of the user's own is a fine start
        require_unseen_fold("init", init, recipe)
    try:
        arch = arch_of(init)
        if arch != recipe.arch and timm.is_model(arch):
            differ = _difference(arch, recipe.arch)
            raise InputError(f"is weights of {arch}, not {recipe.arch}; {differ}; give others, or arch={arch}")
        model = create_model(init, pretrained=True, **arguments)
        _require_pooling(model, recipe, arguments)
        return model
    except MuscleZooError as error:
        told = str(error).removeprefix(f"{init} ")
        verb = " " if told != str(error) or told.startswith("is weights of") else ": "
        raise type(error)(f"init={init}{verb}{told}") from None
    except (
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        AssertionError,
    ) as error:  # timm's, of its own weights
        settings = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise InputError(
            f"init={init} does not fit arch={recipe.arch} with {settings} ({one_line(error)}); leave out global_pool, "
            "or give other weights"
        ) from None


def _require_pooling(model: nn.Module, recipe: Recipe, arguments: dict[str, Any]) -> None:
    """Refuses weights of another pooling, as config.json asks for it: an export is built from the recipe alone."""
    with torch.device("meta"):
        wanted = _pooling_of(timm.create_model(recipe.arch, **arguments))
    pooling = _pooling_of(model)
    if pooling != wanted and pooling is not None:
        raise InputError(f"their global_pool is {pooling}, the recipe's is {wanted}; give global_pool={pooling}")


def _pooling_of(model: nn.Module) -> str | None:
    """How a network pools, as timm calls it; None where it does not say."""
    for holder in (model, getattr(model, "head", None)):
        pool = getattr(holder, "global_pool", None)
        name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if isinstance(name, str):
            return name
    return None


def arch_of(init: str) -> str:
    """The architecture that weights are of; nothing is downloaded where the name tells."""
    init = canonical_name(init)
    if init.startswith((weights.HF_HUB, weights.LOCAL_DIR)):
        found = weights.find_config(init)
        return str(found[0]["architecture"]) if found is not None else ""
    return init.partition(".")[0]


def _difference(theirs: str, ours: str) -> str:
    """Which tensors two architectures do not share, in words: the first of each, or of another shape."""
    with torch.device("meta"):
        shapes = [
            {name: list(tensor.shape) for name, tensor in timm.create_model(arch).state_dict().items()}
            for arch in (theirs, ours)
        ]
    only = [next((name for name in own if name not in other), None) for own, other in (shapes, shapes[::-1])]
    if only[0] and only[1]:
        return f"they have the tensor {only[0]}, {ours} has {only[1]} instead"
    if one := only[0] or only[1]:
        return f"only {theirs if only[0] else ours} has the tensor {one}"
    name = next((name for name, shape in shapes[0].items() if shape != shapes[1][name]), None)
    return f"the tensor {name} is {shapes[0][name]}, not {shapes[1][name]}" if name else "they have the same tensors"
