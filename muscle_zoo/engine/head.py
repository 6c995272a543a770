"""Classifiers on standardized embeddings, and how one becomes the classifier of the whole network.

Embeddings are standardized by the unlabeled pool's mean and standard deviation, and divided by their mean norm. No
linear layer brings each to norm 1, and this folds into one: what is exported is a network of timm's as it is. For the
same reason only ``linear`` can be exported: a cosine needs norms, and ``mlp`` a layer that the networks do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import START_OVER, InputError
from ..methods.logistic import linear_layer, logistic_regression

HIDDEN = 256  # of the mlp
_LEAST_STD = 1e-3  # as a share of the mean one: a feature that hardly varies is not blown up


class Head(nn.Module):
    """A classifier on standardized embeddings ``(n, D, 1, 1)``, with what standardized them.

    Args:
        classifier: ``(n, D)`` to logits ``(n, C)``.
        mean: Of the embeddings, ``(D,)``.
        std: What they are divided by, ``(D,)``.
        backbone_sha256: Of the weights that embed.
    """

    def __init__(self, classifier: nn.Module, mean: Tensor, std: Tensor, backbone_sha256: str) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())
        # In the state, so that a run does not go on with embeddings of another network.
        self.register_buffer("backbone_sha256", torch.frombuffer(bytearray.fromhex(backbone_sha256), dtype=torch.uint8))

    @property
    def sha256(self) -> str:
        """Of the weights that embed, in hexadecimal."""
        return bytes(self.get_buffer("backbone_sha256").tolist()).hex()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        features, layer = embeddings.flatten(1), self.classifier
        if isinstance(layer, nn.Linear) and features.device.type == "cpu":
            # For few classes torch's own order of the factors takes twice as long: the matrix product is a tall one.
            return torch.addmm(layer.bias[:, None], layer.weight, features.T).T.contiguous()
        return self.classifier(features)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch, for a state of the same backbone.

        Raises:
            InputError: It was trained on another one's embeddings.
        """
        own, theirs = self.state_dict()["backbone_sha256"], state_dict.get("backbone_sha256")
        if theirs is None or not torch.equal(own.cpu(), theirs.cpu()):
            raise InputError(f"init: the run was begun with other weights of the backbone; give those, or {START_OVER}")
        return super().load_state_dict(state_dict, strict, assign)

    def fold_into(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Writes the classifier into the layer of a network that takes embeddings as they are.

        Raises:
            InputError: It is not linear, or the layer has no bias.
        """
        if not isinstance(self.classifier, nn.Linear) or layer.bias is None:
            raise InputError(
                f"{type(self.classifier).__name__} cannot be a network's last layer; give classifier=linear"
            )
        mean, std = (value.double() for value in (self.get_buffer("mean"), self.get_buffer("std")))
        weight = self.classifier.weight.detach().double() / std
        bias = self.classifier.bias.detach().double() - weight @ mean
        with torch.no_grad():
            layer.weight.copy_(weight.view_as(layer.weight))
            layer.bias.copy_(bias)


class Cosine(nn.Module):
    """Cosine of features and weights, times a scale that is trained (Gidaris and Komodakis 2018, arXiv 1804.09458)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.norm(dim=1).mean().clamp(min=1.0))
        self.weight = nn.Parameter(weight.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class SmallMLP(nn.Module):
    """A linear layer, and beside it a hidden one whose weights begin at zero: it starts as the linear layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.hidden = nn.Linear(linear.in_features, HIDDEN)
        self.out = nn.Linear(HIDDEN, linear.out_features, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(n, C)``."""
        return self.linear(features) + self.out(F.gelu(self.hidden(features)))


def standardization(embeddings: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and divisor by which the embeddings of some images have mean 0, equal variances and mean norm 1.

    Args:
        embeddings: ``(N, D)``.
        positions: ``(n,)`` int64: the unlabeled pool.

    Returns:
        ``(D,)`` and ``(D,)`` float64; embeddings become ``(x - mean) / divisor``.
    """
    parts = positions.split(8192)
    mean = torch.stack([embeddings[part].double().sum(dim=0) for part in parts]).sum(dim=0) / len(positions)
    squares = torch.stack([(embeddings[part].double() - mean).square().sum(dim=0) for part in parts]).sum(dim=0)
    std = (squares / len(positions)).sqrt()
    std = std.clamp(min=max(_LEAST_STD * float(std.mean()), 1e-12))
    norms = torch.cat([((embeddings[part].double() - mean) / std).norm(dim=1) for part in parts])
    return mean, std * norms.mean().clamp(min=1e-12)


def first_classifier(kind: str, features: Tensor, labels: Tensor, num_classes: int) -> nn.Module:
    """A classifier ``(n, D)`` to logits, begun from logistic regression on the labeled images' plain embeddings.

    Args:
        kind: ``linear``, ``cosine`` or ``mlp``.
        features: ``(n, D)``, standardized.
        labels: ``(n,)`` int64.
        num_classes: C.
    """
    weight, bias = logistic_regression(features, labels, num_classes)
    linear = linear_layer(weight, bias)
    if kind == "linear":
        return linear
    return Cosine(weight) if kind == "cosine" else SmallMLP(linear)


def is_linear(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights of a :class:`Head` are those of a linear classifier, which a network can hold."""
    return {name for name in weights if name.startswith("classifier.")} == {"classifier.weight", "classifier.bias"}
