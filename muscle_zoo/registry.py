"""Which checkpoints there are, and where: folders of cards on disk, and what registry.json says is on the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg

from .errors import InputError, WeightsError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
REGISTRY_FILE = "registry.json"
LEDGER_FILE = "results.csv"
CARD_FILES = ("README.md", CONFIG_FILE, WEIGHTS_FILE, "split.json", "curves.png")  # what a card folder holds
BLOCK = "muscle_zoo"  # our block at the root of config.json
_WEIGHT_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


def shipped_cards() -> Path:
    """hub_cards/ inside the installed wheel, or of the checkout an editable install points to."""
    package = Path(__file__).parent
    inside = package / "hub_cards"
    return inside if inside.is_dir() else package.parent / "hub_cards"


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
        raise InputError(f"MUSCLE_ZOO_HUB={own} is no folder; correct it or unset it")
    return [*([own] if own else []), shipped_cards()]


def find_card(name: str) -> Path | None:
    """The folder of a checkpoint on disk; None when it is not there."""
    if not name or Path(name).name != name:  # never a path that leads elsewhere
        return None
    return next((root / name for root in card_folders() if (root / name / CONFIG_FILE).is_file()), None)


def checkpoint_names() -> list[str]:
    """Checkpoints whose weights can be had: on disk, or pinned on the Hub."""
    configs = [path for root in card_folders() for path in root.glob(f"*/{CONFIG_FILE}")]
    on_disk = {path.parent.name for path in configs if path.with_name(WEIGHTS_FILE).is_file()}
    return sorted(name for name in on_disk | pinned().keys() if not name.endswith(".part"))


def pinned() -> dict[str, dict[str, str]]:
    """registry.json: name to Hub ``repo``, ``revision`` and ``sha256`` of the weights.

    Raises:
        InputError: The file is damaged.
    """
    path = shipped_cards() / REGISTRY_FILE
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); install muscle_zoo again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a card's config.json.

    Raises:
        WeightsError: It is missing, is not JSON, or lacks what a model is built from.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; give a folder that `train` or `export` wrote") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); download or export it again") from None
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("architecture"), str)
        or not isinstance(config.get("pretrained_cfg"), dict)
        or not isinstance(config.get(BLOCK, {}), dict)
    ):
        raise WeightsError(f"{path} has no architecture and pretrained_cfg; download or export it again")
    return config


def timm_cfg(config: dict[str, Any]) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of a config.json, complete: timm's registry never reads that file itself.

    Where weights come from is decided here, never by what a config.json says.
    """
    cfg = {key: value for key, value in config["pretrained_cfg"].items() if key not in _WEIGHT_SOURCES}
    for key in ("num_classes", "label_names", "label_descriptions"):
        if key in config:
            cfg[key] = config[key]
    return cfg


def pretrained_cfgs(arch: str) -> dict[str, dict[str, Any]]:
    """Tag to timm cfg, for every checkpoint of an architecture that is on disk.

    It is called while the backbones register themselves, so a damaged card is left out here, and no other card takes
    its name; asking for it by name says what is wrong with it.
    """
    found: dict[str, dict[str, Any]] = {}
    damaged: set[str] = set()
    for root in (own_cards(), shipped_cards()):
        for path in sorted(root.glob(f"{arch}.*/{CONFIG_FILE}")) if root else ():
            tag = path.parent.name.partition(".")[2]
            if tag in found or tag in damaged or tag.endswith(".part"):
                continue
            try:
                cfg = {**timm_cfg(read_config(path.parent)), "tag": tag, "file": str(path.parent / WEIGHTS_FILE)}
                PretrainedCfg(**cfg)
            except (WeightsError, TypeError):
                damaged.add(tag)
            else:
                found[tag] = cfg
    return found
