"""Which checkpoints there are, and where: folders of cards on disk, and what registry.json says is on the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..data.catalog import dataset_info
from ..errors import InputError, WeightsError
from ..files import read_untrusted_json, write_json
from ..recipes.names import parse_name
from .card import CONFIG_FILE, NAME, OBJECT, SHA256, Field, check_fields, matching, read_config, timm_cfg, validate

WEIGHTS_FILE = "model.safetensors"
REGISTRY_FILE = "registry.json"
LEDGER_FILE = "results.csv"
DEV_LEDGER_FILE = "dev.csv"  # runs that were evaluated on held-out training images, by which recipes were chosen
CARD_FILES = ("README.md", CONFIG_FILE, WEIGHTS_FILE, "split.json", "curves.png")  # what a card folder holds
_LOCK_FILE = ".lock"

_PIN: dict[str, Field] = {
    "repo": matching(r"[\w.-]{1,96}/[\w.-]{1,96}", "OWNER/NAME"),
    "revision": matching(r"\w[\w.-]{0,99}", "a commit or a tag"),
    "sha256": SHA256,
}


def shipped_cards() -> Path:
    """hub_cards/ inside the installed wheel, or of the checkout an editable install points to."""
    package = Path(__file__).parent.parent
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
    """The folder that ``MUSCLE_ZOO_HUB`` names; None when it is not set.

    It is read again at every call. timm's own registry, which :func:`pretrained_cfgs` fills, is not: it stays as it was
    when muscle_zoo was imported.
    """
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


def checkpoint_names(source: str | None = None) -> list[str]:
    """Checkpoints whose weights can be had: on disk, or pinned on the Hub; with the source ``hub``, only the latter."""
    on_hub = {name for name, pin in pinned().items() if pin.get("repo")}
    if source == "hub":
        return sorted(on_hub)
    cards = [card for root in card_folders() for card in cards_in(root)]
    return sorted({card.name for card in cards if (card / WEIGHTS_FILE).is_file()} | on_hub)


def pinned() -> dict[str, dict[str, Any]]:
    """The shipped registry.json, see :func:`read_pins`."""
    return read_pins(shipped_cards() / REGISTRY_FILE)


def read_pins(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a registry.json: name to Hub ``repo``, ``revision`` and ``sha256`` of the weights.

    A checkpoint that was not published has the hash alone; repo and revision are None. An absent file is an empty one.

    Raises:
        InputError: The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        table = validate(read_untrusted_json(path), "the whole", OBJECT).get("checkpoints")
        for name, pin in validate(table, "checkpoints", OBJECT).items():
            validate(name, "a checkpoint's name", NAME)
            where = f"checkpoints.{name}"
            check_fields(validate(pin, where, OBJECT), _PIN, f"{where}.")
            if pin.get("sha256") is None or bool(pin.get("repo")) != bool(pin.get("revision")):
                raise ValueError(f"{where} has no sha256, or not both repo and revision")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from git, or install muscle_zoo again") from None
    return table


@contextmanager
def locked(cards: Path) -> Iterator[None]:
    """Holds the lock of a hub_cards folder: of two that change its ledger or registry.json at once, one waits.

    Who holds it may take it again.
    """
    from filelock import FileLock

    with FileLock(cards.resolve() / _LOCK_FILE, is_singleton=True):
        yield


def register(path: Path, name: str, sha256: str, repo: str | None = None, revision: str | None = None) -> None:
    """Writes a checkpoint into a registry.json, under the lock of its folder.

    Args:
        path: The file; it is made where there is none.
        name: Of the checkpoint.
        sha256: Of its weights.
        repo: Where on the Hub they are; None leaves a pin of the same weights as it is, and drops one of others.
        revision: The commit of that repo.

    Raises:
        InputError: The file is damaged.
    """
    with locked(path.parent):
        pins = read_pins(path)
        before = pins.get(name, {})
        if repo is None and before.get("sha256") == sha256:
            repo, revision = before.get("repo"), before.get("revision")
        pins[name] = {"repo": repo, "revision": revision, "sha256": sha256}
        write_json(path, {"checkpoints": dict(sorted(pins.items()))})


def pretrained_cfgs(arch: str) -> dict[str, dict[str, Any]]:
    """Tag to timm cfg, for every checkpoint of an architecture that is on disk or pinned on the Hub.

    The backbones ask for it once, while they register themselves: timm's registry wants the whole cfg of every tag, so
    ``import muscle_zoo`` reads each config.json, a quarter of a millisecond apiece. A damaged card must not break the
    import: it is left out, and no other card takes its name; asking for it by name says what is wrong with it.
    """
    cfgs: dict[str, dict[str, Any]] = {}
    damaged: set[str] = set()
    for root in (own_cards(), shipped_cards()):
        for card in cards_in(root, f"{arch}.*") if root else ():
            tag = card.name.partition(".")[2]
            if tag in cfgs or tag in damaged:
                continue
            try:
                cfg = {**timm_cfg(read_config(card)), "tag": tag, **_source(card.name, card / WEIGHTS_FILE)}
            except WeightsError:
                damaged.add(tag)
            else:
                cfgs[tag] = cfg
    for name in _pins_or_none():
        name_arch, _, tag = name.partition(".")
        if name_arch == arch and tag not in cfgs and tag not in damaged and (source := _source(name)):
            with suppress(InputError):  # a name that says nothing of its images
                cfgs[tag] = {**_cfg_of_tag(tag), "tag": tag, **source}
    return cfgs


def _cfg_of_tag(tag: str) -> dict[str, Any]:
    """What a name says of its images, where there is no config.json."""
    parts = parse_name(f"resnet18.{tag}")  # the architecture itself is only being registered
    return dataset_info(parts["dataset"]).timm_cfg()


def _pins_or_none() -> dict[str, dict[str, Any]]:
    """The pins, for what must not fail: a damaged registry.json is said by whoever asks for a name."""
    try:
        return pinned()
    except InputError:
        return {}


def _source(name: str, weights: Path | None = None) -> dict[str, str]:
    """Timm's field of where a checkpoint's weights are: on disk, else where they are pinned on the Hub."""
    pin = _pins_or_none().get(name, {})
    if pin.get("repo") and (weights is None or not weights.is_file()):
        return {"hf_hub_id": f"{pin['repo']}@{pin['revision']}"}
    return {"file": str(weights)} if weights is not None else {}
