"""S4L: beside the labels, the network learns by how much an unlabeled image was turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..losses.consistency import to_float32
from ..losses.pretext import LEVELS, turn
from .base import Batch, Method, Outputs, RunContext, View, check_at_least
from .supervised import Supervised

_ROTATION = "rotation"


class S4L(Method):
    """Self-supervised semi-supervised learning with rotations (Zhai et al. 2019, arXiv 1905.03670).

    The loss is ``H(y, f(x)) + weight * H(r, g(turned by r quarters(u)))``: g is a linear head on the features. In the
    paper each image is turned by all four in a step (``s4l.preset=paper``); here by ``turns`` of them, other ones at
    another step, which costs less. The paper's supervised loss is taken of turned images too; here not, for a turned 6
    is a 9. In the authors' code (github.com/google-research/s4l) the rotation loss is the mean of unlabeled and labeled
    images'; here it is of the unlabeled pool, which holds the labeled ones. The exemplar loss is left out. Logs
    ``cross_entropy`` and ``rotation``, in nats, and ``rotation_accuracy``.

    Args:
        weight: Weight of the rotation loss, at least 0; the paper's is the default.
        turns: Copies of an image in a step, each turned by another angle, 1 to 4.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("s4l", {"s4l": {"weight": 0.5}})
        >>> method.parts(RunContext(features=64))
        {'rotation': Linear(in_features=64, out_features=4, bias=True)}
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_clean": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"u_turned": (_ROTATION,)}
    presets: ClassVar[Mapping[str, Mapping[str, float]]] = {"paper": {"turns": 4}}

    def __init__(self, weight: float = 1.0, turns: int = 1, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("s4l.weight", weight)
        check_at_least("s4l.turns", turns, 1)
        if turns > LEVELS:
            raise InputError(f"s4l.turns={turns} is out of range; give 1 to {LEVELS}")
        self.supervised = Supervised()
        self.weight, self.turns = weight, turns

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """The head that tells the angle."""
        return {_ROTATION: nn.Linear(context.features, LEVELS)}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Turns the unlabeled images, each by an angle that changes with the step."""
        inputs = dict(batch.inputs)
        images = inputs.pop("u_clean")
        # Of the image and the step alone, so that one process and several turn it alike.
        angles = torch.cat([(batch.indices + step + copy) % LEVELS for copy in range(self.turns)])
        inputs["u_turned"] = turn(images.repeat(self.turns, 1, 1, 1), angles)
        return replace(batch, inputs=inputs, targets={**batch.targets, "angles": angles})

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted one on the angles."""
        terms = self.supervised.loss(outputs, batch, step)
        logits, angles = to_float32(outputs["u_turned", _ROTATION]), batch.targets["angles"]
        rotation = F.cross_entropy(logits, angles)
        terms["loss"] = terms["loss"] + self.weight * rotation
        accuracy = (logits.detach().argmax(dim=-1) == angles).to(logits.dtype).mean()
        return {**terms, "rotation": rotation.detach(), "rotation_accuracy": accuracy}
