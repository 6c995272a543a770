"""How people write a repo of the Hub: as timm does, as its page prints it, or as its address."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import WeightsError

HF_HUB, LOCAL_DIR = "hf-hub:", "local-dir:"
_SOURCES = {"hf-hub": HF_HUB, "hf_hub": HF_HUB, "local-dir": LOCAL_DIR}  # in any case, as in timm
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_REPO = re.compile(rf"{_PART}/{_PART}(@\S+)?", flags=re.ASCII)
_RUNS = "runs"  # where `train` writes: runs/NAME is one that is not there
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar", ".safetensors", ".onnx", ".json")  # no repo is called so
_PAGES = ("tree", "blob", "resolve", "commit", "raw")  # what stands before a revision in an address


def canonical_name(name: str) -> str:
    """A checkpoint's name as everything here knows it.

    Args:
        name: ``hf-hub:ORG/NAME``, ``hf_hub:ORG/NAME``, ``hf://ORG/NAME``, a page's address, or ``ORG/NAME`` where no
            file or folder of this machine is meant: neither ``ORG/NAME`` nor a folder ``ORG`` is there. All of them may
            end in ``@revision`` or ``/``. Anything else is left as it is.

    Returns:
        ``hf-hub:ORG/NAME[@revision]``, ``local-dir:PATH``, or the name.

    Raises:
        WeightsError: It is the address of something else than a model.

    Example:
        >>> canonical_name("https://huggingface.co/muscle-zoo/cnn4.muscle_digits_10/tree/v1/")
        'hf-hub:muscle-zoo/cnn4.muscle_digits_10@v1'
        >>> canonical_name("hf_hub:timm/resnet18.a1_in1k"), canonical_name("cnn4.muscle_digits_10@v1")
        ('hf-hub:timm/resnet18.a1_in1k', 'cnn4.muscle_digits_10@v1')
    """
    name = name.strip()
    source, colon, rest = name.partition(":")
    if colon and (prefix := _SOURCES.get(source.lower())):
        if prefix == LOCAL_DIR:
            return f"{LOCAL_DIR}{rest}"
        return canonical_name(rest) if "://" in rest else f"{HF_HUB}{rest.rstrip('/')}"
    if source.lower() == "hf" and rest.startswith("//"):
        return f"{HF_HUB}{rest.strip('/')}"
    path = _path_of_address(name)
    if path is not None:
        return _of_address(name, path)
    bare = name.rstrip("/")
    folder = bare.partition("/")[0]
    could_be = _REPO.fullmatch(bare) and folder != _RUNS and Path(bare).suffix not in _FILES
    if could_be and not Path(name).exists() and not Path(folder).exists():
        return f"{HF_HUB}{bare}"
    return name


def _path_of_address(name: str) -> str | None:
    """The path of an address on the Hub, or on the one that HF_ENDPOINT names; None where it is no such address."""
    try:
        parts = urlsplit(name if "://" in name else f"https://{name}")
    except ValueError:  # brackets that are no address
        return None
    own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in (*_HOSTS, *([own.lower()] if own else [])):
        return None
    return parts.path


def _of_address(name: str, path: str) -> str:
    words = [unquote(word) for word in path.split("/") if word]
    if len(words) < 2 or words[0] in ("datasets", "spaces", "collections", "docs", "papers"):
        raise WeightsError(f"{name} is no model's page; give https://huggingface.co/ORG/NAME, or hf-hub:ORG/NAME")
    repo, revision = "/".join(words[:2]), ""
    if len(words) > 3 and words[2] in _PAGES:
        is_pull = words[3] == "refs" and len(words) > 5
        revision = "/".join(words[3:6]) if is_pull else words[3]
    return f"{HF_HUB}{repo}" + (f"@{revision}" if revision else "")
