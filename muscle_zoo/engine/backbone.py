"""A network in two: the backbone, which gives embeddings, and the classifier, one linear layer."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import InputError, one_line

TOLERANCE = 1e-4  # between a network's logits and those of its two parts, as a share of the largest


@dataclass(frozen=True)
class Backbone:
    """A network of timm's as a frozen backbone and a linear classifier.

    Attributes:
        network: The whole network, in evaluation mode.
        classifier: Its layer that gives the logits; it is not part of the backbone. None where it has no linear one.
        width: Numbers of an embedding.
        sha256: Of the backbone's weights, by name.

    Raises:
        InputError: see :func:`split_network`.
    """

    network: nn.Module
    classifier: nn.Linear | nn.Conv2d | None
    width: int
    sha256: str

    @property
    def arch(self) -> str:
        """Timm's name of the architecture."""
        return str(cast(dict[str, Any], self.network.pretrained_cfg).get("architecture"))

    @property
    def pooling(self) -> str:
        """How an image's features become one vector, as timm calls it."""
        pool = getattr(self.network, "global_pool", None)
        head_pool = getattr(getattr(self.network, "head", None), "global_pool", None)
        named = pool if pool is not None else head_pool
        return named if isinstance(named, str) else str(getattr(named, "pool_type", ""))

    def embed(self, images: Tensor) -> Tensor:
        """The pre-logits features ``(n, width)`` of normalized images ``(n, C, H, W)``."""
        network = cast(Any, self.network)
        return network.forward_head(network.forward_features(images), pre_logits=True).flatten(1)


@torch.inference_mode()
def split_network(network: nn.Module, input_size: tuple[int, int, int], classifier: bool = True) -> Backbone:
    """Finds the two parts of a network, and makes sure that they are all of it.

    Args:
        network: Of timm's; it is put into evaluation mode.
        input_size: Channels, height, width of its images.
        classifier: Whether a linear classifier is needed; embeddings alone can be had of others, too.

    Raises:
        InputError: It has no linear classifier on a vector of features, or does more than these two parts do.

    Example:
        >>> import timm
        >>> backbone = split_network(timm.create_model("test_resnet", num_classes=10), (3, 32, 32))
        >>> backbone.width, backbone.embed(torch.zeros(1, 3, 32, 32)).shape
        (96, torch.Size([1, 96]))
    """
    network = network.eval()
    arch = str(cast(dict[str, Any], network.pretrained_cfg).get("architecture"))
    layer = cast(Any, network).get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(layer, (nn.Linear, nn.Conv2d)) or layer.weight[0].numel() != layer.weight.shape[1]:
        if classifier:
            raise InputError(
                f"arch={arch}: its classifier is {type(layer).__name__}, not one linear layer, so tune=head cannot "
                "take it; give another arch, or tune=all"
            )
        layer = None
    sha256 = weights_sha256(network, layer)
    device = next(network.parameters()).device
    images = torch.linspace(-1, 1, 2 * math.prod(input_size), device=device).view(2, *input_size)
    try:
        backbone = Backbone(network, layer, 0, sha256)
        embeddings = backbone.embed(images)
        problem = "" if layer is None else _difference(network(images), embeddings, layer)
    except (RuntimeError, TypeError, AttributeError, AssertionError, ValueError) as error:
        problem = one_line(error)
    if problem:
        raise InputError(
            f"arch={arch}: its logits are not those of a linear layer on its pre-logits features ({problem}), so it "
            "cannot be embedded with; give another arch"
        )
    return replace(backbone, width=embeddings.shape[1])


def weights_sha256(network: nn.Module, without: nn.Module | None) -> str:
    """Hash of a network's weights and buffers, by name, without those of one of its layers."""
    own = {id(parameter) for parameter in without.parameters()} if without is not None else set()
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict(keep_vars=True).items()):
        if id(value) not in own:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _difference(logits: Tensor, embeddings: Tensor, layer: nn.Linear | nn.Conv2d) -> str:
    """How logits differ from a layer's on embeddings, in words; empty where they do not."""
    parts = embeddings @ layer.weight.flatten(1).T + (0.0 if layer.bias is None else layer.bias)
    off = float((logits - parts).abs().max() / logits.abs().max().clamp(min=1e-30))
    return "" if off <= TOLERANCE else f"they are off by {off:.1e} of the largest"
