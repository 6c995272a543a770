"""How our backbones are registered with timm: their configurations, and how a name becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from timm.models import PretrainedCfg, build_model_with_cfg

from muscle_zoo.backbones._base import Backbone
from muscle_zoo.checkpoints import registry

PAPER = "arXiv:2012.00150"
SOURCES = ("url", "file", "hf_hub_id")  # the fields by which timm knows that a row has weights

BackboneT = TypeVar("BackboneT", bound="Backbone")


def cfg(**fields: Any) -> dict[str, Any]:
    """Composes the configuration of an architecture without weights.

    It belongs to no data set, hence mean and standard deviation that map [0, 1] to [-1, 1].

    Args:
        **fields: Fields of timm's ``PretrainedCfg`` to add or to replace; ``input_size`` is (C, H, W) in pixels.

    Returns:
        Fields of timm's ``PretrainedCfg``.
    """
    channels = fields.get("input_size", (3, 32, 32))[0]
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.5,) * channels,
        "std": (0.5,) * channels,
        "classifier": "fc",
        "license": "apache-2.0",
        **fields,
    }


def with_pretrained(base: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Adds the published checkpoints to the base configurations, for timm's ``generate_default_cfgs``.

    The untagged base row is left out as soon as one tag has weights: timm would list the bare name as a checkpoint
    beside the tagged ones. ``build`` keeps the base as what the bare name means without weights.

    Args:
        base: Base configuration by architecture, as ``cfg`` makes it.

    Returns:
        Configuration by ``arch`` or ``arch.tag``. What a checkpoint's row does not say comes from the base.
    """
    rows: dict[str, dict[str, Any] | PretrainedCfg] = {}  # the type that generate_default_cfgs takes
    for arch, fields in base.items():
        tagged = registry.pretrained_cfgs(arch)
        if not any(row.get(source) for row in tagged.values() for source in SOURCES):
            rows[arch] = dict(fields)
        for tag, row in tagged.items():
            merged = {**fields, "paper_ids": PAPER, **row}
            if "pool_size" not in row:  # the base's is of the base's image size
                sides = zip(merged["input_size"][1:], fields["pool_size"], fields["input_size"][1:], strict=True)
                merged["pool_size"] = tuple(max(1, side * pool // base_side) for side, pool, base_side in sides)
            rows[f"{arch}.{tag}"] = merged
    return rows


def build(
    model_cls: type[BackboneT], arch: str, pretrained: bool, base: Mapping[str, Any], *, levels: int, **kwargs: Any
) -> BackboneT:
    """Builds a registered architecture: timm's ``build_model_with_cfg`` with two decisions of ours.

    A bare name without weights means the architecture as its base configuration describes it (10 classes, its own
    number of input channels), whatever checkpoint is the default one: publishing a 100-class checkpoint must not
    change ``create_model("wrn_28_2")``. And ``features_only`` returns every level there is by default.

    Args:
        model_cls: The class to build.
        arch: The registered name.
        pretrained: Load weights: those of the tag asked for, or of the default checkpoint.
        base: The architecture's base configuration.
        levels: How many feature levels it has.
        **kwargs: What timm's ``create_model`` passes on, and arguments of the class.

    Returns:
        The model, or timm's feature extractor around it if ``features_only`` is set.

    Raises:
        RuntimeError: From timm, if weights are asked for and none exist.
    """
    if not pretrained and not kwargs.get("pretrained_cfg"):
        kwargs["pretrained_cfg"] = dict(base)
    feature_cfg = {"out_indices": tuple(range(levels))}
    return build_model_with_cfg(model_cls, arch, pretrained, feature_cfg=feature_cfg, **kwargs)
