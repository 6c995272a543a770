"""MP-SSL: several pretext tasks at once, weighted by their gradients, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.consistency import to_float32
from ..losses.frank_wolfe import least_norm_weights
from ..losses.pretext import LEVELS, change_sharpness, solarize, turn
from .base import Batch, Method, Nets, Outputs, RunContext, View, check_at_least
from .supervised import Supervised

_TASKS = {"rotation": turn, "sharpness": change_sharpness, "solarization": solarize}


class MPSSL(Method):
    """Pretext tasks of mixed image transformations (Yamaguchi et al. 2019, arXiv 1912.11603), beside the labels.

    An unlabeled image is turned, smoothed or sharpened, and solarized, each by one of four levels; three linear heads
    on the features tell by how much: ``H(y, f(x)) + weight * sum_t a_t H(l_t, g_t(u'))``. The weights of the tasks, 1
    in all, are those with which the sum of their gradients with respect to the network is shortest, found anew at every
    step by Frank-Wolfe (Sener and Koltun 2018, arXiv 1810.04650, algorithm 2), so that no task is worked against.

    The paper pre-trains without labels; as a term beside the cross-entropy it is S4L's scheme (arXiv 1905.03670). There
    is no public code; the levels and the weight are this project's. ``mp_ssl.frank_wolfe=false`` weighs all tasks
    alike, and saves three passes back through the network. Logs ``cross_entropy``, and the loss of each task, in nats.

    Args:
        weight: Weight of the pretext tasks, at least 0.
        frank_wolfe: Weigh the tasks by their gradients.
        context: Not used.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("mp_ssl", {"mp_ssl": {"weight": 0.5}})
        >>> list(method.parts(RunContext(features=64)))
        ['rotation', 'sharpness', 'solarization']
    """

    views: Mapping[str, View] = {"x_weak": View("labeled", "weak"), "u_clean": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"u_changed": tuple(_TASKS)}

    def __init__(self, weight: float = 1.0, frank_wolfe: bool = True, context: RunContext | None = None) -> None:
        super().__init__()
        check_at_least("mp_ssl.weight", weight)
        self.supervised = Supervised()
        self.weight, self.frank_wolfe = weight, frank_wolfe

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        """One head a task."""
        return {task: nn.Linear(context.features, LEVELS) for task in _TASKS}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        """Changes the unlabeled images in all ways at once, each image by levels of its own."""
        inputs = dict(batch.inputs)
        images = inputs.pop("u_clean")
        levels = {}
        for number, (task, change) in enumerate(_TASKS.items()):
            # Of the image and the step alone, so that one process and several change it alike.
            levels[task] = (batch.indices // LEVELS**number + step) % LEVELS
            images = change(images, levels[task])
        return replace(batch, inputs={**inputs, "u_changed": images}, targets={**batch.targets, **levels})

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the mean of the tasks; with their losses, for :meth:`backward`."""
        terms = self.supervised.loss(outputs, batch, step)
        tasks = {t: F.cross_entropy(to_float32(outputs["u_changed", t]), batch.targets[t]) for t in _TASKS}
        terms["loss"] = terms["loss"] + self.weight * sum(tasks.values()) / len(tasks)
        return {**terms, **tasks}

    def backward(self, terms: dict[str, Tensor], nets: Nets) -> None:
        """Weighs the tasks by the gradients of their losses."""
        if not self.frank_wolfe:
            return super().backward(terms, nets)
        losses = [terms[task] for task in _TASKS]
        gradients = [nets.gradients(loss) for loss in losses]
        products = torch.stack([torch.stack([torch.dot(a, b) for b in gradients]) for a in gradients])
        weights = least_norm_weights(products)
        # The loss has their mean already, and perhaps what another method added to it.
        more = sum((weight - 1.0 / len(losses)) * loss for weight, loss in zip(weights, losses, strict=True))
        return nets.backward(terms["loss"] + self.weight * more)
