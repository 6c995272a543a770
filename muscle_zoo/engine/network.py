"""A network with heads beside its classifier: what a method's parts are trained in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from ..errors import InputError, one_line
from ..methods import Method, RunContext
from ..methods.base import FEATURES, LOGITS, TEACHER, frozen_statistics, same_dropout
from ..recipes import Recipe

__all__ = ["Network", "backbone_weights", "with_parts"]

Rows = Sequence[tuple[int, int]]  # from which row of a forward's images to before which
_BACKBONE, _PARTS = "backbone.", "parts."  # in front of the names of its tensors


class Network(nn.Module):
    """A network of timm's, and heads on its pre-logits features.

    Called with images alone it is the network alone: it is evaluated, and asked by a method's ``prepare``, as if it had
    no heads.

    Args:
        backbone: With timm's ``forward_features`` and ``forward_head``.
        parts: Heads by name, each of which takes features ``(n, F)``.

    Example:
        >>> from muscle_zoo import create_model
        >>> network = Network(create_model("cnn4.muscle_digits_10"), {"rotation": nn.Linear(64, 4)})
        >>> outputs = network(torch.zeros(6, 1, 8, 8), {"logits": [(0, 2)], "rotation": [(2, 4), (5, 6)]})
        >>> {what: tuple(output.shape) for what, output in outputs.items()}
        {'logits': (2, 10), 'rotation': (3, 4)}
    """

    def __init__(self, backbone: nn.Module, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone: Any = backbone  # it has timm's methods, which nn.Module does not know of
        self.parts = nn.ModuleDict(dict(parts))

    def forward(self, images: Tensor, wanted: Mapping[str, Rows] | None = None) -> Tensor | dict[str, Tensor]:
        """Runs it once over all images, and its heads over those that they are wanted of.

        Args:
            images: ``(n, C, H, W)``.
            wanted: Which rows ``logits``, ``features`` and the output of a part are wanted of; by default the logits
                of all.

        Returns:
            What is wanted by its name, of its rows one after the other; by default the logits themselves.
        """
        if wanted is None:
            logits: Tensor = self.backbone(images)
            return logits
        trunk = self.backbone.forward_features(images)
        outputs = {}
        if LOGITS in wanted:
            outputs[LOGITS] = _rows(self.backbone.forward_head(trunk), wanted[LOGITS])
        if others := [what for what in wanted if what != LOGITS]:
            features = self._features(trunk, images.device, again=LOGITS in wanted)
            for what in others:
                own = _rows(features, wanted[what])
                outputs[what] = own if what == FEATURES else self.parts[what](own)
        return outputs

    def _features(self, trunk: Tensor, device: torch.device, again: bool) -> Tensor:
        """The pre-logits features; what gives the logits is not told apart from them by timm, and runs once more."""
        with ExitStack() as stack:
            if again:  # so that logits are what they are without this, and a norm in the head counts its batch once
                stack.enter_context(same_dropout(device))
                stack.enter_context(frozen_statistics(self.backbone))
            features: Tensor = self.backbone.forward_head(trunk, pre_logits=True)
        return features

    def no_weight_decay(self) -> set[str]:
        """Names of the backbone's parameters that do not decay although they are matrices, as timm asks for them."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {_BACKBONE + name for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Which of the backbone's layers a parameter is of, as timm asks for it; parts are behind all of them."""
        layers = group_parameters(self.backbone, self.backbone.group_matcher(coarse=coarse), reverse=True)
        return lambda name: layers[name.removeprefix(_BACKBONE)] if name.startswith(_BACKBONE) else math.inf


def _rows(values: Tensor, rows: Rows) -> Tensor:
    if list(rows) == [(0, len(values))]:
        return values
    return torch.cat([values[start:stop] for start, stop in rows])


def with_parts(
    backbone: nn.Module, method: Method, context: RunContext, recipe: Recipe, input_size: Sequence[int]
) -> nn.Module:
    """A recipe's network together with its method's parts.

    Args:
        backbone: The network.
        method: Whose parts, and what it needs.
        context: What the method was made with.
        recipe: Its seed draws the parts' weights; BatchNorm in them has its momentum.
        input_size: Channels, height, width of the images.

    Returns:
        A :class:`Network`; the backbone itself where the method needs nothing but logits.

    Raises:
        InputError: The network gives no features ``(n, F)``, or the method needs what there is not.
    """
    needed = {what for wanted in method.needs.values() for what in wanted} - {LOGITS, TEACHER}
    if not needed:
        return backbone
    features = _count_features(backbone, recipe.arch, input_size)
    seed = hashlib.sha256(f"{recipe.seed}/parts".encode()).digest()[:8]
    torch.manual_seed(int.from_bytes(seed, "big") >> 1)
    parts = method.parts(replace(context, features=features))
    if needed - {FEATURES} != parts.keys() or parts.keys() & {LOGITS, FEATURES, TEACHER}:
        raise InputError(
            f"method {type(method).__name__} has the parts {', '.join(parts) or 'none'} and needs "
            f"{', '.join(sorted(needed))}; give each part a name of its own, and need it of an input"
        )
    network = Network(backbone, parts)
    for module in network.parts.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.bn_momentum
    return network


@torch.no_grad()
def _count_features(backbone: Any, arch: str, input_size: Sequence[int]) -> int:
    """How many pre-logits features a network has, asked by an image, for timm's attributes do not always tell."""
    training = backbone.training
    try:
        trunk = backbone.eval().forward_features(torch.zeros(1, *input_size))
        shape = tuple(backbone.forward_head(trunk, pre_logits=True).shape)
        problem = "" if len(shape) == 2 else f"they have the shape {shape}"
    except (RuntimeError, TypeError, AttributeError) as error:
        problem = one_line(error)
    finally:
        backbone.train(training)
    if problem:
        raise InputError(f"arch={arch} gives no pre-logits features of an image ({problem}); give another arch")
    return int(shape[1])


def backbone_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors, of a saved state's: without the parts, under the names that timm has for them."""
    if not all(name.startswith((_BACKBONE, _PARTS)) for name in tensors):
        return dict(tensors)  # the method had no parts
    return {name.removeprefix(_BACKBONE): value for name, value in tensors.items() if name.startswith(_BACKBONE)}
