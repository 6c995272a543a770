"""Where a checkpoint's weights come from, and that they are the ones that were promised.

In this order: an explicit folder (``local-dir:PATH``); ``MUSCLE_ZOO_HUB``; hub_cards/ of the checkout or the installed
wheel; the Hugging Face Hub at the revision that registry.json pins. ``NAME@revision``, ``hf-hub:REPO[@revision]`` and
``source="hub"`` always go to the Hub. The weights' sha256 is compared before anybody reads them, and nothing but
safetensors is ever read: nothing that came from outside is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import WeightsError, one_line, suggest
from ..files import file_sha256
from ..recipes.names import recipe_names
from . import registry
from .card import BLOCK, CONFIG_FILE, read_config
from .hub_errors import hub_errors

HF_HUB, LOCAL_DIR = "hf-hub:", "local-dir:"
HEADER_LIMIT = 8 << 20  # bytes of a safetensors header; a network of 2,000 tensors needs 0.2 MiB
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
        origin: Where it came from, in words.
    """

    config: dict[str, Any]
    weights: Path
    tensors: dict[str, TensorInfo]
    origin: str


@dataclass(frozen=True)
class _Place:
    """Where a name's files are: a folder, or a repo of the Hub; and the hash that was promised for the weights."""

    folder: Path | None = None
    repo: str = ""
    revision: str | None = None
    sha256: str | None = None

    @property
    def hub_name(self) -> str:
        return f"{HF_HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def resolve(name: str, source: str | None = None) -> Checkpoint:
    """Finds a checkpoint and checks it.

    Args:
        name: A checkpoint's name, ``NAME@revision``, ``hf-hub:REPO[@revision]`` or ``local-dir:PATH``.
        source: ``hub`` to go to the Hugging Face Hub although the weights are on disk.

    Returns:
        The checkpoint.

    Raises:
        WeightsError: There are none, or they are not whole, or not the ones that were promised.
        DownloadError: The Hub could not be reached.
    """
    place = _locate(name, source)
    if place.folder is not None:
        return from_folder(place.folder, place.sha256)
    return _from_hub(place, (CONFIG_FILE, registry.WEIGHTS_FILE))


def fetch(name: str, source: str | None = None, force: bool = False) -> Path:
    """Finds a checkpoint's whole card, downloads it if need be, and checks the weights.

    Args:
        name: As in :func:`resolve`.
        source: As there.
        force: Download again what is in the cache already.

    Returns:
        The folder that holds it; in the cache of huggingface_hub if it comes from the Hub.

    Raises:
        WeightsError: As in :func:`resolve`, or a file of the card is not there.
        DownloadError: The Hub could not be reached.
    """
    place = _locate(name, source)
    if place.folder is not None:
        from_folder(place.folder, place.sha256)
        return place.folder
    return _from_hub(place, registry.CARD_FILES, force).weights.parent


def _locate(name: str, source: str | None) -> _Place:
    if source not in (None, "hub"):
        raise WeightsError(f"source={source!r} is unknown; give 'hub' or leave it out")
    if name.startswith(LOCAL_DIR):
        return _Place(Path(name.removeprefix(LOCAL_DIR)).expanduser())
    if name.startswith(HF_HUB):
        repo, _, revision = name.removeprefix(HF_HUB).partition("@")
        if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo):
            raise WeightsError(f"{name}: {repo!r} is not a repo's name; write hf-hub:ORG/NAME")
        return _Place(repo=repo, revision=revision or None)
    plain, _, revision = name.partition("@")
    if not revision and source is None and (folder := registry.find_card(plain)) is not None:
        return _Place(folder, sha256=registry.pinned().get(plain, {}).get("sha256") if _is_shipped(folder) else None)
    pin = registry.pinned().get(plain)
    if pin is not None and pin.get("repo"):
        known = revision in ("", pin["revision"])
        return _Place(None, pin["repo"], revision or pin["revision"], pin["sha256"] if known else None)
    if registry.find_card(plain) is not None:
        raise WeightsError(
            f"{name}: registry.json names no repo of it on the Hugging Face Hub; write hf-hub:ORG/{plain}, or leave "
            "out the revision and the source to take the weights on disk"
        )
    if plain in recipe_names():
        raise WeightsError(
            f"{plain} is a recipe without weights; train it (python train.py {plain}), or take one of "
            "`muscle-zoo list --pretrained`"
        )
    if "/" in name and registry.find_card(name.rpartition("/")[2].partition("@")[0]) is not None:
        raise WeightsError(f"no weights for {name!r}; for a repo on the Hub, write hf-hub:{name}")
    raise WeightsError(
        f"no weights for {name!r}; {suggest(name, registry.checkpoint_names())} (or hf-hub:REPO, local-dir:PATH)"
    )


def _is_shipped(folder: Path) -> bool:
    return folder.parent == registry.shipped_cards()


def from_folder(folder: Path, sha256: str | None = None) -> Checkpoint:
    """Takes a checkpoint from a folder that holds config.json and model.safetensors.

    Args:
        folder: The folder.
        sha256: Hash that the weights must have; by default the one in config.json.

    Raises:
        WeightsError: A file is missing, damaged, or has another hash.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder; give one that holds {CONFIG_FILE} and {registry.WEIGHTS_FILE}")
    config = read_config(folder)
    weights = folder / registry.WEIGHTS_FILE
    if not weights.is_file():
        raise WeightsError(f"{weights} is missing, or no file; download or export it again")
    tensors = check(weights, sha256 or config.get(BLOCK, {}).get("weights_sha256"))
    return Checkpoint(config, weights, tensors, str(folder))


def check(weights: Path, sha256: str | None) -> dict[str, TensorInfo]:
    """Makes sure that a weights file is whole, and the one that was promised.

    Args:
        weights: A safetensors file.
        sha256: The hash it must have; None where nobody promised one.

    Returns:
        What it holds, by name.

    Raises:
        WeightsError: It is not.
    """
    try:
        tensors = _read_header(weights)
        found = file_sha256(weights) if sha256 is not None else None
    except (SafetensorError, OSError, ValueError) as error:
        reason = one_line(error)
        raise WeightsError(f"{weights} is truncated or damaged ({reason}); download or export it again") from None
    if found is not None and sha256 is not None and found != sha256:
        raise WeightsError(
            f"{weights} has sha256 {found[:12]}..., {sha256[:12]}... was promised; download or export it again"
        )
    return tensors


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


def _from_hub(place: _Place, files: Sequence[str], force: bool = False) -> Checkpoint:
    """Downloads files of a repo, unless they are in the cache; progress, cache and offline mode are the client's."""
    from huggingface_hub import hf_hub_download

    where, revision = place.hub_name, place.revision
    if revision and (not re.fullmatch(r"\w[\w./-]*", revision, flags=re.ASCII) or ".." in revision):
        raise WeightsError(f"{where}: {revision!r} is not a revision; give a branch, a tag or a commit")
    paths = {}
    for file in files:
        with hub_errors(f"{where}, {file}"):
            paths[file] = Path(hf_hub_download(place.repo, file, revision=revision, force_download=force))
    folder, weights = paths[CONFIG_FILE].parent, paths[registry.WEIGHTS_FILE]
    config = read_config(folder)
    promised = place.sha256 or _announced(place, weights) or config.get(BLOCK, {}).get("weights_sha256")
    try:
        tensors = check(weights, promised)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}: muscle-zoo download {where} --force") from None
    return Checkpoint(config, weights, tensors, where)


def _announced(place: _Place, weights: Path) -> str | None:
    """The LFS hash the Hub announces for the weights; None where nobody knows it: then config.json's counts."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if weights.is_symlink():  # to what the cache calls by the hash that was announced; it may be a link itself
        in_cache = weights.readlink().name
        if _SHA256.fullmatch(in_cache):
            return in_cache
    try:
        etag = get_hf_file_metadata(hf_hub_url(place.repo, registry.WEIGHTS_FILE, revision=place.revision)).etag
    except Exception:  # offline, with the weights in the cache
        return None
    return etag if etag and _SHA256.fullmatch(etag) else None
