"""Distillation: a student's predictions should be the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import InputError
from .consistency import Divergence, to_float32


class DistillationLoss(nn.Module):
    """``T^2 KL(softmax(t / T) || softmax(s / T))``, a mean over images (Hinton et al. 2015, arXiv 1503.02531, sec. 2).

    A temperature T above 1 shows how the teacher ranks the classes that it does not choose. With the factor, which the
    paper recommends, gradients are about as large whatever T is. No gradient flows into the teacher. Computed in
    float32 at least.

    Args:
        temperature: T, above 0.

    Raises:
        InputError: The temperature is not above 0.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]])
        >>> loss = DistillationLoss(temperature=2.0)
        >>> loss(teacher, teacher).item(), round(loss(student, teacher).item(), 4)
        (0.0, 0.4438)
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0.0:
            raise InputError(f"DistillationLoss: temperature={temperature} is not above 0; 1 changes nothing")
        self.temperature = temperature
        self.divergence = Divergence()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            student: Logits ``(n, C)``.
            teacher: Logits ``(n, C)`` of the same images.

        Returns:
            A scalar in nats.

        Raises:
            InputError: The shapes differ.
        """
        if student.shape != teacher.shape:
            raise InputError(
                f"DistillationLoss: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be logits "
                "of the same images and classes"
            )
        target = (to_float32(teacher.detach()) / self.temperature).softmax(dim=-1)
        return self.temperature**2 * self.divergence(target, to_float32(student) / self.temperature)

    def extra_repr(self) -> str:
        """Shows the temperature in ``repr``."""
        return f"temperature={self.temperature}"
