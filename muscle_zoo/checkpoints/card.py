"""A card's config.json: what it may hold, and what a model is built from.

It is somebody else's file: it is read within bounds, and every field that anything here or in timm looks at is checked
against the tables below before it is used.

The tables are written in a small language. A :class:`Field` is a test for a value together with its description, so
that what a table demands and what an error message says cannot differ::

    _PIN = {"repo": matching("[a-z]+/[a-z]+", "OWNER/NAME"), "sha256": SHA256}  # name of the field: what it may hold
    check_fields({"sha256": 7}, _PIN, "checkpoints.x.")
    # ValueError: checkpoints.x.sha256=7 is not a sha256 of 64 hexadecimal digits

:func:`validate` checks one value, :func:`check_fields` those fields of an object that a table names. Both raise
ValueError; who read the file adds which file it was and what to do. Fields are made by ``_whole``, ``_number``,
``_choice``, :func:`matching`, ``_list`` and ``_either``. A field that is null counts as one that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from reprlib import repr as shown  # short, and one line, whatever the value
from typing import Any

import timm
from torch import nn

from ..data.catalog import DataSetInfo
from ..errors import InputError, WeightsError, suggest
from ..files import read_untrusted_json

CONFIG_FILE = "config.json"
BLOCK = "muscle_zoo"  # our block at its root
_SIDE = 2048  # largest image side and channel count
_CLASSES = 1_000_000
_WEIGHT_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


@dataclass(frozen=True)
class Field:
    """What a field of a file may hold.

    Attributes:
        description: The same for a person: ``text``.
        accepts: Whether a value is of this kind.
    """

    description: str
    accepts: Callable[[Any], bool]


def _whole(low: int, high: int) -> Field:
    return Field(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def _number(low: float, high: float) -> Field:
    return Field(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high)


def _choice(*allowed: str) -> Field:
    return Field("one of " + ", ".join(allowed), lambda v: isinstance(v, str) and v in allowed)


def matching(pattern: str, description: str) -> Field:
    """Text that fits a regular expression as a whole."""
    return Field(description, lambda v: isinstance(v, str) and re.fullmatch(pattern, v, flags=re.ASCII) is not None)


def _list(field: Field, low: int, high: int) -> Field:
    def accepts(value: Any) -> bool:
        return isinstance(value, list) and low <= len(value) <= high and all(map(field.accepts, value))

    return Field(
        f"a list of {low} to {high}, each {field.description}" if low < high else f"{low} times {field.description}",
        accepts,
    )


def _either(*fields: Field) -> Field:
    return Field(
        " or ".join(field.description for field in fields), lambda v: any(field.accepts(v) for field in fields)
    )


_FLAG = Field("true or false", lambda v: type(v) is bool)
OBJECT = Field("a JSON object", lambda v: isinstance(v, dict))
_TEXT = Field("text of at most 10000 letters", lambda v: isinstance(v, str) and len(v) <= 10_000)
_TEXTS = Field("text by name", lambda v: isinstance(v, dict) and all(map(_TEXT.accepts, v.values())))
NAME = matching(r"[\w.:-]{1,200}", "a name of letters, digits and _ . : -")
_MODULES = _either(NAME, _list(NAME, 0, 10))
_SIZE = _list(_whole(1, _SIDE), 3, 3)
SHA256 = matching(r"[0-9a-f]{64}", "a sha256 of 64 hexadecimal digits")
_SHARE = _number(0, 1)

_ROOT: dict[str, Field] = {
    "architecture": NAME,
    "pretrained_cfg": OBJECT,
    "num_classes": _whole(0, _CLASSES),
    "label_names": _list(_TEXT, 0, _CLASSES),
    "label_descriptions": _TEXTS,
    "model_args": OBJECT,
    BLOCK: OBJECT,
}
# The fields of timm's PretrainedCfg; where weights come from is no field of a file's.
_PRETRAINED_CFG: dict[str, Field] = {
    "architecture": NAME,
    "tag": _TEXT,
    **dict.fromkeys(("input_size", "test_input_size", "min_input_size"), _SIZE),
    "fixed_input_size": _FLAG,
    # Not timm's "random", which is for training: a picture that is predicted cannot be resized by it.
    "interpolation": _choice("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    **dict.fromkeys(("crop_pct", "test_crop_pct"), _number(0.01, 10)),
    "crop_mode": _choice("center", "squash", "border"),
    "mean": _list(_number(-1000, 1000), 1, _SIDE),
    "std": _list(_number(1e-6, 1000), 1, _SIDE),
    "num_classes": _whole(0, _CLASSES),
    "label_offset": _whole(0, 0),  # the file holds the classifier as it is
    "label_names": _list(_TEXT, 0, _CLASSES),
    "label_descriptions": _TEXTS,
    **dict.fromkeys(("pool_size", "test_pool_size"), _list(_whole(1, _SIDE), 1, 3)),
    **dict.fromkeys(("first_conv", "classifier"), _MODULES),
    **dict.fromkeys(("license", "description", "origin_url", "paper_name"), _TEXT),
    **dict.fromkeys(("paper_ids", "notes"), _either(_TEXT, _list(_TEXT, 0, 100))),
}
# Arguments of a network that a file may set. timm's create_model takes many more, some of which open files.
_MODEL_ARGS: dict[str, Field] = {
    "num_classes": _whole(0, _CLASSES),
    "in_chans": _whole(1, _SIDE),
    "global_pool": matching(r"\w{0,20}", "a pooling's name"),
    "img_size": _either(_whole(1, _SIDE), _list(_whole(1, _SIDE), 2, 2)),
    "fc_norm": _FLAG,
    "width": _whole(1, 4096),
    "depth": _whole(1, 1000),
    **dict.fromkeys(("drop_rate", "drop_path_rate", "bn_momentum", "bn_eps"), _SHARE),
}
_BLOCK: dict[str, Field] = {
    **dict.fromkeys(("name", "method", "dataset"), NAME),
    "labels": _either(_whole(1, 10**12), matching(r"\d{1,3}pct", "a share such as 10pct")),
    "seed": _whole(0, 2**63 - 1),
    **dict.fromkeys(("weights_sha256", "split_sha256", "recipe_sha256"), SHA256),
    # What a recipe holds is not checked here: a later version may know more fields, and loading needs none of them.
    **dict.fromkeys(("metrics", "probe", "recipe", "calibration"), OBJECT),
}
_METRICS: dict[str, Field] = {
    **dict.fromkeys(("top1", "top5", "ece"), _SHARE),
    "nll": _number(0, 1e9),
    "n": _whole(1, 10**12),
}
# What a temperature was found by is another thing in each version, so the measurements are not checked, but for these.
_CALIBRATION: dict[str, Field] = {
    "temperature": _number(0.01, 100),
    "images": _whole(1, 10**12),
    **dict.fromkeys(("confidence", "agreement_weak", "accuracy", "ece_uncalibrated"), _SHARE),
    "labels_per_class": _number(0, 1e12),
    "nll_uncalibrated": _number(0, 1e9),
    **dict.fromkeys(("rule", "why"), _TEXT),
}
_PROBE: dict[str, Field] = {"input_sha256": SHA256, "logits": _list(_number(-1e38, 1e38), 1, _CLASSES)}


def validate(value: Any, where: str, field: Field) -> Any:
    """The value, or a ValueError that says where it stands and what it should be."""
    if not field.accepts(value):
        raise ValueError(f"{where}={shown(value)} is not {field.description}")
    return value


def check_fields(values: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """Raises ValueError unless every field that the table names is what it says; null is as good as not there."""
    for key, field in fields.items():
        if values.get(key) is not None:
            validate(values[key], f"{where}{key}", field)


def _refuse_unknown(values: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    for key in values:
        if key not in fields:
            raise ValueError(f"{where.rstrip('.')} has the unknown field {shown(key)}; {suggest(key[:50], fields)}")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a card's config.json, and checks every field that is used; others at its root are ignored.

    Raises:
        WeightsError: It is missing, is not JSON, lacks what a model is built from, or has a field that cannot be.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_untrusted_json(path)
    except FileNotFoundError:
        inside = path.parent / "export"
        remedy = inside if (inside / CONFIG_FILE).is_file() else "a run's export/ or another checkpoint's folder"
        raise WeightsError(f"{path} is missing; give {remedy}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON that can be read ({error}); download or export it again") from None
    if not isinstance(config, dict) or config.get("architecture") is None or config.get("pretrained_cfg") is None:
        raise WeightsError(f"{path} has no architecture and pretrained_cfg; download or export it again")
    config = {key: value for key, value in config.items() if value is not None}
    try:
        _check_model(config)
    except ValueError as error:
        raise WeightsError(
            f"{path}: {error}, so a model cannot be built from it; download or export it again"
        ) from None
    try:
        _check_block(config.get(BLOCK, {}))
    except ValueError as error:
        raise WeightsError(
            f"{path}: the muscle_zoo block of config.json is damaged ({error}); download or export it again"
        ) from None
    return config


def _check_model(config: dict[str, Any]) -> None:
    """Raises ValueError unless a model can be built from it."""
    check_fields(config, _ROOT, "")
    described = {key: value for key, value in config["pretrained_cfg"].items() if key not in _WEIGHT_SOURCES}
    _refuse_unknown(described, _PRETRAINED_CFG, "pretrained_cfg.")
    check_fields(described, _PRETRAINED_CFG, "pretrained_cfg.")
    arguments = config.get("model_args", {})
    _refuse_unknown(arguments, _MODEL_ARGS, "model_args.")
    check_fields(arguments, _MODEL_ARGS, "model_args.")
    cfg = timm_cfg(config)
    for key in ("num_classes", "input_size"):
        if key not in cfg:
            raise ValueError(f"pretrained_cfg.{key} is missing")
    _check_resize(cfg)
    channels, classes, names = cfg["input_size"][0], cfg["num_classes"], cfg.get("label_names")
    if names is not None and len(names) != classes:
        raise ValueError(f"label_names are {len(names)}, num_classes={classes}")
    for key in ("mean", "std"):
        if key in cfg and len(cfg[key]) not in (1, channels):
            raise ValueError(f"pretrained_cfg.{key} has {len(cfg[key])} numbers, the images have {channels} channels")
    for key, value in (("num_classes", classes), ("in_chans", channels)):
        if arguments.get(key) not in (None, value):
            raise ValueError(f"model_args.{key}={arguments[key]} disagrees with {value} of the images and classes")


def _check_resize(cfg: Mapping[str, Any]) -> None:
    """Raises ValueError where two fields that may both be make a picture huge before it is cut, or leave nothing."""
    for size, share in product(("input_size", "test_input_size"), ("crop_pct", "test_crop_pct")):
        if size not in cfg:
            continue
        sides = [side / cfg.get(share, 1.0) for side in cfg[size][1:]]
        what = f"pretrained_cfg.{size}={cfg[size]} with {share}={cfg.get(share, 1.0)} resizes pictures to"
        if max(sides) > 2 * _SIDE:
            raise ValueError(f"{what} {max(sides):.0f} pixels, more than {2 * _SIDE}")
        if min(sides) < 1:
            raise ValueError(f"{what} less than a pixel")


def _check_block(block: dict[str, Any]) -> None:
    """Raises ValueError unless our block may describe a model."""
    check_fields(block, _BLOCK, f"{BLOCK}.")
    for part, fields in (("metrics", _METRICS), ("probe", _PROBE), ("calibration", _CALIBRATION)):
        check_fields(block.get(part) or {}, fields, f"{BLOCK}.{part}.")


def calibration_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of its weights' temperature; of weights older than that, that it is 1."""
    said = (config.get(BLOCK) or {}).get("calibration") or {}
    return {"temperature": 1.0, **{key: value for key, value in said.items() if value is not None}}


def timm_cfg(config: dict[str, Any]) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a config.json, complete: timm's registry never reads that file itself.

    Where weights come from is decided here, never by what a config.json says.
    """
    cfg = {
        key: value
        for key, value in config["pretrained_cfg"].items()
        if key not in _WEIGHT_SOURCES and value is not None
    }
    for key in ("num_classes", "label_names", "label_descriptions"):
        if key in config:
            cfg[key] = config[key]
    return cfg


def without_classifier(cfg: dict[str, Any]) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of the same network without its classifier."""
    return {key: value for key, value in cfg.items() if key != "label_names"} | {"num_classes": 0}


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says the network is built with."""
    return {key: value for key, value in config.get("model_args", {}).items() if value is not None}


def describe_config(config: dict[str, Any], origin: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a config.json says that a model is: architecture, timm cfg and model arguments.

    Raises:
        WeightsError: timm has no such architecture.
    """
    arch = config["architecture"]
    if not timm.is_model(arch):
        hint = suggest(arch, timm.list_models())
        raise WeightsError(f"{origin}/{CONFIG_FILE}: architecture {arch!r} is unknown; {hint}")
    return arch, timm_cfg(config), model_args(config)


def normalization_said(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that a config.json says its images have; None where it does not say both."""
    cfg = timm_cfg(config)
    channels = cfg["input_size"][0]
    mean, std = (tuple(cfg.get(key) or ()) for key in ("mean", "std"))
    return (mean, std) if len(mean) == len(std) == channels else None


def as_trained(info: DataSetInfo, config: dict[str, Any]) -> DataSetInfo:
    """A data set's facts with the size and the normalization that its images had in the training of a checkpoint."""
    mean, std = normalization_said(config) or (info.mean, info.std)
    return replace(info, input_size=tuple(timm_cfg(config)["input_size"]), mean=mean, std=std)


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a model: its classes, input size, mean, standard deviation, ...

    Raises:
        InputError: timm did not create it.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, dict):
        raise InputError(
            f"{type(model).__name__} has no pretrained_cfg; give a model made by create_model, or a model's name"
        )
    return cfg
