"""Noisy Student: the labels of a finished network, filtered and balanced, for a student that has a harder view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..losses import SoftCrossEntropy
from ..losses.consistency import to_float32
from ..losses.distributed import all_reduce_sum
from .base import LOGITS, TEACHER, Batch, Method, Outputs, PseudoLabels, RunContext, View, check_at_least, check_share


class NoisyStudent(Method):
    """Noisy Student training (Xie et al. 2020, arXiv 1911.04252): one generation of it.

    The loss is ``H(y, f(x)) + weight * mean w_i 1[max t(u_i) >= threshold] H(t(u_i), f(A(u_i)))``: t is the recipe's
    ``teacher``, frozen and in evaluation mode, asked about the weak view; the student sees strong views, of labeled
    images too, and has dropout (the recipe's ``drop_rate``, 0.5 by default, as in the paper). The student's finished
    run is the next generation's teacher: hub_cards/studies/noisy_student.md has the commands.

    The paper labels the whole pool once, keeps images at a confidence of at least 0.3, and gives each class as many of
    them, by taking the surest of a frequent class and repeating those of a rare one. Here that is done step by step,
    which needs no table of the pool and lets the teacher see each draw of an image: ``w_i`` is the share that each of C
    classes should have, 1/C, over the one that i's class had among all pseudo-labels that counted up to now (and one
    more of each class, to begin with), at most ``most``. The mean over the counted images is then about 1.

    The paper's student has stochastic depth too, and its loss is a mean over labeled and unlabeled images together: as
    here with a weight of mu, up to a factor. Logs ``cross_entropy`` and ``pseudo_label``, in nats, and ``mask``, the
    share of unlabeled images that count.

    Args:
        weight: Weight of the unlabeled images, at least 0.
        threshold: Least probability at which a pseudo-label counts, 0 to 1.
        labels: ``soft``, the teacher's distribution, or ``hard``, its class.
        balance: Weigh classes alike.
        most: Greatest weight of an image, at least 1.
        context: Classes.

    Raises:
        InputError: An option is out of its range.

    Example:
        >>> from muscle_zoo.methods import create_method
        >>> method = create_method("noisy_student", {"noisy_student": {"labels": "hard"}})
        >>> list(method.views), method.needs["u_weak"]
        (['x_strong', 'u_weak', 'u_strong'], ('teacher',))
    """

    views: Mapping[str, View] = {
        "x_strong": View("labeled", "strong"),
        "u_weak": View("unlabeled", "weak"),
        "u_strong": View("unlabeled", "strong"),
    }
    needs: Mapping[str, Sequence[str]] = {"u_weak": (TEACHER,), "u_strong": (LOGITS,)}
    recipe: ClassVar[Mapping[str, int | float | str]] = {"drop_rate": 0.5}

    def __init__(
        self,
        weight: float = 1.0,
        threshold: float = 0.3,
        labels: str = "soft",
        balance: bool = True,
        most: float = 5.0,
        context: RunContext | None = None,
    ) -> None:
        super().__init__()
        check_at_least("noisy_student.weight", weight)
        check_share("noisy_student.threshold", threshold, zero=True)
        check_at_least("noisy_student.most", most, 1.0)
        if labels not in ("soft", "hard"):
            raise InputError(f"noisy_student.labels={labels} is unknown; give soft or hard")
        self.weight, self.threshold, self.balance, self.most = weight, threshold, balance, most
        self.soft = labels == "soft"
        self.soft_cross_entropy = SoftCrossEntropy()
        self.counts: Tensor
        self.register_buffer("counts", torch.ones((context or RunContext()).num_classes))

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy on the labels plus the weighted one on the teacher's."""
        classes, mask = self.pseudo_labels(outputs, batch)
        probabilities = to_float32(outputs["u_weak", TEACHER]).softmax(dim=-1)
        target = probabilities if self.soft else F.one_hot(classes, probabilities.shape[1])
        counted = mask.to(probabilities.dtype)
        weights = counted * self._balanced(classes, mask) if self.balance else counted
        pseudo_label = self.soft_cross_entropy(target.to(probabilities.dtype), outputs["u_strong"], weights)
        cross_entropy = F.cross_entropy(to_float32(outputs["x_strong"]), batch.labels)
        return {
            "loss": cross_entropy + self.weight * pseudo_label,
            "cross_entropy": cross_entropy.detach(),
            "pseudo_label": pseudo_label.detach(),
            "mask": counted.mean(),
        }

    @torch.no_grad()
    def _balanced(self, classes: Tensor, mask: Tensor) -> Tensor:
        """Each image's weight by its class, after those of this step are counted."""
        own = (F.one_hot(classes, len(self.counts)) * mask.unsqueeze(1)).sum(dim=0).to(self.counts.dtype)
        self.counts += all_reduce_sum(own)
        share = self.counts / self.counts.sum()
        return (1.0 / (len(share) * share)).clamp(max=self.most)[classes]

    def pseudo_labels(self, outputs: Outputs, batch: Batch) -> PseudoLabels:
        """The teacher's classes, and which of them are sure enough."""
        confidence, classes = to_float32(outputs["u_weak", TEACHER]).softmax(dim=-1).max(dim=-1)
        return PseudoLabels(classes, confidence >= self.threshold)
