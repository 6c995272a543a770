"""Which checkpoints there are, and where: folders of cards on disk, and what registry.json says is on the Hub.

A config.json is somebody else's: it is read within bounds, and every field that anything here or in timm looks at is
checked against the tables below before it is used.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown  # short, and one line, whatever the value
from typing import Any

from .errors import InputError, WeightsError, near

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
REGISTRY_FILE = "registry.json"
LEDGER_FILE = "results.csv"
DEV_LEDGER_FILE = "dev.csv"  # runs that were evaluated on held-out training images, by which recipes were chosen
CARD_FILES = ("README.md", CONFIG_FILE, WEIGHTS_FILE, "split.json", "curves.png")  # what a card folder holds
BLOCK = "muscle_zoo"  # our block at the root of config.json
JSON_LIMIT = 8 << 20  # bytes of a JSON file; once read it takes up to 25 times as much memory
_DIGITS = 20  # of a whole number: more than any field holds
_SIDE = 2048  # largest image side and channel count
_CLASSES = 1_000_000
_WEIGHT_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


@dataclass(frozen=True)
class Kind:
    """What a field of a file may hold.

    Attributes:
        words: The same for a person: ``text``.
        accepts: Whether a value is of this kind.
    """

    words: str
    accepts: Callable[[Any], bool]


def _whole(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def _number(low: float, high: float) -> Kind:
    return Kind(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high)


def _choice(*words: str) -> Kind:
    return Kind("one of " + ", ".join(words), lambda v: isinstance(v, str) and v in words)


def _matching(pattern: str, words: str) -> Kind:
    return Kind(words, lambda v: isinstance(v, str) and re.fullmatch(pattern, v, flags=re.ASCII) is not None)


def _list(kind: Kind, low: int, high: int) -> Kind:
    def accepts(value: Any) -> bool:
        return isinstance(value, list) and low <= len(value) <= high and all(map(kind.accepts, value))

    return Kind(f"a list of {low} to {high}, each {kind.words}" if low < high else f"{low} times {kind.words}", accepts)


def _either(*kinds: Kind) -> Kind:
    return Kind(" or ".join(kind.words for kind in kinds), lambda v: any(kind.accepts(v) for kind in kinds))


_FLAG = Kind("true or false", lambda v: type(v) is bool)
_OBJECT = Kind("a JSON object", lambda v: isinstance(v, dict))
_TEXT = Kind("text of at most 10000 letters", lambda v: isinstance(v, str) and len(v) <= 10_000)
_TEXTS = Kind("text by name", lambda v: isinstance(v, dict) and all(map(_TEXT.accepts, v.values())))
_NAME = _matching(r"[\w.:-]{1,200}", "a name of letters, digits and _ . : -")
_MODULES = _either(_NAME, _list(_NAME, 0, 10))
_SIZE = _list(_whole(1, _SIDE), 3, 3)
_SHA256 = _matching(r"[0-9a-f]{64}", "a sha256 of 64 hexadecimal digits")
_SHARE = _number(0, 1)

_ROOT: dict[str, Kind] = {
    "architecture": _NAME,
    "pretrained_cfg": _OBJECT,
    "num_classes": _whole(0, _CLASSES),
    "label_names": _list(_TEXT, 0, _CLASSES),
    "label_descriptions": _TEXTS,
    "model_args": _OBJECT,
    BLOCK: _OBJECT,
}
# The fields of timm's PretrainedCfg; where weights come from is no field of a file's.
_PRETRAINED_CFG: dict[str, Kind] = {
    "architecture": _NAME,
    "tag": _TEXT,
    **dict.fromkeys(("input_size", "test_input_size", "min_input_size"), _SIZE),
    "fixed_input_size": _FLAG,
    "interpolation": _choice("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "random"),
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
_MODEL_ARGS: dict[str, Kind] = {
    "num_classes": _whole(0, _CLASSES),
    "in_chans": _whole(1, _SIDE),
    "global_pool": _matching(r"\w{0,20}", "a pooling's name"),
    "img_size": _either(_whole(1, _SIDE), _list(_whole(1, _SIDE), 2, 2)),
    "width": _whole(1, 4096),
    "depth": _whole(1, 1000),
    **dict.fromkeys(("drop_rate", "drop_path_rate", "bn_momentum", "bn_eps"), _SHARE),
}
_BLOCK: dict[str, Kind] = {
    **dict.fromkeys(("name", "method", "dataset"), _NAME),
    "labels": _either(_whole(1, 10**12), _matching(r"\d{1,3}pct", "a share such as 10pct")),
    "seed": _whole(0, 2**63 - 1),
    "weights_sha256": _SHA256,
    "metrics": _OBJECT,
}
_METRICS: dict[str, Kind] = {"top1": _SHARE, "n": _whole(1, 10**12)}
_PIN: dict[str, Kind] = {
    "repo": _matching(r"[\w.-]{1,96}/[\w.-]{1,96}", "OWNER/NAME"),
    "revision": _matching(r"\w[\w.-]{0,99}", "a commit or a tag"),
    "sha256": _SHA256,
}


def shipped_cards() -> Path:
    """hub_cards/ inside the installed wheel, or of the checkout an editable install points to."""
    package = Path(__file__).parent
    inside = package / "hub_cards"
    return inside if inside.is_dir() else package.parent / "hub_cards"


def checkout() -> Path:
    """The checkout this package runs from.

    Raises:
        InputError: It is an installed package.
    """
    root = shipped_cards().parent
    if not (root / "pyproject.toml").is_file():
        raise InputError("muscle_zoo does not run from a checkout; say where the checkout is (--to, --root)")
    return root


def own_cards() -> Path | None:
    """The folder that ``MUSCLE_ZOO_HUB`` names; None when it is not set."""
    own = os.environ.get("MUSCLE_ZOO_HUB")
    return Path(own).expanduser() if own else None


def card_folders() -> list[Path]:
    """Where cards are looked for, in this order: ``MUSCLE_ZOO_HUB`` when it is set, then the shipped ones.

    Raises:
        InputError: ``MUSCLE_ZOO_HUB`` names no folder.
    """
    own = own_cards()
    if own is not None and not own.is_dir():
        raise InputError(f"MUSCLE_ZOO_HUB={own} is not a folder; correct it or unset it")
    return [*([own] if own else []), shipped_cards()]


def cards_in(root: Path, pattern: str = "*") -> list[Path]:
    """The card folders in a folder, by name; one that was not finished (``NAME.part``) is none."""
    return sorted(path.parent for path in root.glob(f"{pattern}/{CONFIG_FILE}") if path.parent.suffix != ".part")


def find_card(name: str) -> Path | None:
    """The folder of a checkpoint on disk; None when it is not there."""
    if not name or Path(name).name != name:  # never a path that leads elsewhere
        return None
    return next((root / name for root in card_folders() if (root / name / CONFIG_FILE).is_file()), None)


def checkpoint_names() -> list[str]:
    """Checkpoints whose weights can be had: on disk, or pinned on the Hub."""
    cards = [card for root in card_folders() for card in cards_in(root)]
    return sorted({card.name for card in cards if (card / WEIGHTS_FILE).is_file()} | pinned().keys())


def pinned() -> dict[str, dict[str, str]]:
    """registry.json: name to Hub ``repo``, ``revision`` and ``sha256`` of the weights.

    Raises:
        InputError: The file is damaged.
    """
    path = shipped_cards() / REGISTRY_FILE
    if not path.exists():
        return {}
    try:
        table = _of_kind(read_json(path), "the whole", _OBJECT).get("checkpoints")
        for name, pin in _of_kind(table, "checkpoints", _OBJECT).items():
            _of_kind(name, "a checkpoint's name", _NAME)
            where = f"checkpoints.{name}"
            _check_fields(_of_kind(pin, where, _OBJECT), _PIN, f"{where}.")
            if pin.get("sha256") is None or bool(pin.get("repo")) != bool(pin.get("revision")):
                raise ValueError(f"{where} has no sha256, or not both repo and revision")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); install muscle_zoo again") from None
    return table


def one_line(message: object) -> str:
    """A message, or an error's, in one line, short and printable: it may quote what a file says."""
    line = " ".join(str(message).split())[:500]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def read_json(path: Path) -> Any:
    """Reads a JSON file that may be hostile, within bounds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a file, is larger than ``JSON_LIMIT``, is not UTF-8, is not JSON, is nested too deeply, or
            holds a key twice, a number that is not finite, or half a character.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")  # a device or a pipe may never end
    with path.open("rb") as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise ValueError(f"it is larger than {JSON_LIMIT >> 20} MiB")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_int=_whole_number,
            parse_float=_finite,
            parse_constant=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could not even be printed
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"it has the key {shown(key)} twice")
        values[key] = value
    return values


def _whole_number(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"{digits[:_DIGITS]}... is too large a number")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:_DIGITS]} is not a finite number")
    return number


def _of_kind(value: Any, where: str, kind: Kind) -> Any:
    if not kind.accepts(value):
        raise ValueError(f"{where}={shown(value)} is not {kind.words}")
    return value


def _check_fields(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    """Raises ValueError unless every known field is of its kind; null is as good as not there."""
    for key, kind in kinds.items():
        if values.get(key) is not None:
            _of_kind(values[key], f"{where}{key}", kind)


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, Kind], where: str) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{where.rstrip('.')} has the unknown field {shown(key)}; {near(key[:50], known)}")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a card's config.json, and checks every field that is used; others at its root are ignored.

    Raises:
        WeightsError: It is missing, is not JSON, lacks what a model is built from, or has a field that cannot be.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; give a folder that `train` or `export` wrote") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON that can be read ({error}); download or export it again") from None
    if not isinstance(config, dict) or config.get("architecture") is None or config.get("pretrained_cfg") is None:
        raise WeightsError(f"{path} has no architecture and pretrained_cfg; download or export it again")
    config = {key: value for key, value in config.items() if value is not None}
    try:
        _check_config(config)
    except ValueError as error:
        raise WeightsError(
            f"{path}: {error}, so a model cannot be built from it; download or export it again"
        ) from None
    return config


def _check_config(config: dict[str, Any]) -> None:
    """Raises ValueError unless a model can be built from it and described by it."""
    _check_fields(config, _ROOT, "")
    described = {key: value for key, value in config["pretrained_cfg"].items() if key not in _WEIGHT_SOURCES}
    _refuse_unknown(described, _PRETRAINED_CFG, "pretrained_cfg.")
    _check_fields(described, _PRETRAINED_CFG, "pretrained_cfg.")
    arguments = config.get("model_args", {})
    _refuse_unknown(arguments, _MODEL_ARGS, "model_args.")
    _check_fields(arguments, _MODEL_ARGS, "model_args.")
    block = config.get(BLOCK, {})
    _check_fields(block, _BLOCK, f"{BLOCK}.")
    _check_fields(block.get("metrics") or {}, _METRICS, f"{BLOCK}.metrics.")
    cfg = timm_cfg(config)
    for key in ("num_classes", "input_size"):
        if key not in cfg:
            raise ValueError(f"pretrained_cfg.{key} is missing")
    channels, classes, names = cfg["input_size"][0], cfg["num_classes"], cfg.get("label_names")
    if names is not None and len(names) != classes:
        raise ValueError(f"label_names are {len(names)}, num_classes={classes}")
    for key in ("mean", "std"):
        if key in cfg and len(cfg[key]) not in (1, channels):
            raise ValueError(f"pretrained_cfg.{key} has {len(cfg[key])} numbers, the images have {channels} channels")
    for key, value in (("num_classes", classes), ("in_chans", channels)):
        if arguments.get(key) not in (None, value):
            raise ValueError(f"model_args.{key}={arguments[key]} disagrees with {value} of the images and classes")


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


def model_args(config: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says the network is built with."""
    return {key: value for key, value in config.get("model_args", {}).items() if value is not None}


def pretrained_cfgs(arch: str) -> dict[str, dict[str, Any]]:
    """Tag to timm cfg, for every checkpoint of an architecture that is on disk.

    It is called while the backbones register themselves, so a damaged card is left out here, and no other card takes
    its name; asking for it by name says what is wrong with it.
    """
    found: dict[str, dict[str, Any]] = {}
    damaged: set[str] = set()
    for root in (own_cards(), shipped_cards()):
        for card in cards_in(root, f"{arch}.*") if root else ():
            tag = card.name.partition(".")[2]
            if tag in found or tag in damaged:
                continue
            try:
                cfg = {**timm_cfg(read_config(card)), "tag": tag, "file": str(card / WEIGHTS_FILE)}
            except WeightsError:
                damaged.add(tag)
            else:
                found[tag] = cfg
    return found
