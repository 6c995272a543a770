"""The recipe's teacher: a finished network whose predictions a method may learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.card import pretrained_cfg_of
from ..checkpoints.factory import create_model
from ..data import DataSetInfo
from ..errors import InputError, MuscleZooError, one_line
from ..methods import Method
from ..methods.base import TEACHER
from ..recipes import Recipe
from .starting_weights import require_unseen_fold

__all__ = ["Teacher", "load_teacher", "require_teacher", "tensors_sha256"]


class Teacher(nn.Module):
    """A frozen classifier in evaluation mode: images as the student sees them to logits.

    Its weights are no part of a run's state: they are loaded again, and their hash tells whether they are the same.

    Args:
        network: The classifier.
        info: How the images are normalized, which it undoes where the classifier was trained with other numbers.

    Attributes:
        sha256: Of its tensors, see :func:`tensors_sha256`.
    """

    def __init__(self, network: nn.Module, info: DataSetInfo) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.sha256 = tensors_sha256(network.state_dict())
        cfg = pretrained_cfg_of(network)
        own_mean, own_std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)
        self.same = torch.equal(mean, own_mean) and torch.equal(std, own_std)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """It stays in evaluation mode: its BatchNorm has the statistics of its own training."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(n, C)`` of normalized images, without gradients."""
        with torch.no_grad():
            logits: Tensor = self.network(images if self.same else images * self.scale + self.shift)
        return logits


def require_teacher(recipe: Recipe, needed: bool) -> None:
    """Refuses a recipe without the teacher that its method needs, and one that its method has no use for.

    Args:
        recipe: Names it, or does not.
        needed: Whether its method learns from one.

    Raises:
        InputError: It is missing, or of no use.
    """
    if needed and not recipe.teacher:
        remedy = "give teacher=RUN, or a name of `muscle-zoo list --pretrained`"
        raise InputError(f"teacher= is empty, and {recipe.method} learns from one; {remedy}")
    if recipe.teacher and not needed:
        raise InputError(f"teacher={recipe.teacher}: {recipe.method} learns from no teacher; leave it out")


def load_teacher(recipe: Recipe, method: Method, info: DataSetInfo) -> Teacher | None:
    """The recipe's teacher, if its method needs one.

    Args:
        recipe: Names it.
        method: Needs it, or not.
        info: The images that it will see.

    Raises:
        InputError: The method needs one and there is none, or the other way around; it is one for other images or
            classes; or this run is measured on images that it was trained on.
        WeightsError: Its weights are missing or damaged.
        DownloadError: They could not be downloaded.
    """
    needed = any(TEACHER in wanted for wanted in method.needs.values())  # or only with certain options
    require_teacher(recipe, needed)
    if not needed:
        return None
    try:
        network = create_model(recipe.teacher, pretrained=True)
    except MuscleZooError as error:
        raise type(error)(f"teacher={recipe.teacher}: {error}") from None
    _require_same_task(recipe.teacher, network, info)
    require_unseen_fold("teacher", recipe.teacher, recipe)
    return Teacher(network.to(memory_format=torch.channels_last), info)


def _require_same_task(target: str, network: nn.Module, info: DataSetInfo) -> None:
    """Refuses a teacher of other classes, or one that does not take the images.

    Raises:
        InputError: It is one.
    """
    names = pretrained_cfg_of(network).get("label_names")
    if names is not None and list(names) != list(info.class_names):
        theirs, ours = one_line(", ".join(map(str, names))), one_line(", ".join(info.class_names))
        raise InputError(f"teacher={target} knows the classes {theirs}, the data have {ours}; give one of the same")
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(1, *info.input_size)).shape)
        problem = "" if shape == (1, info.num_classes) else f"its output has the shape {shape}"
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        problem = one_line(error)
    if problem:
        size = "x".join(map(str, info.input_size))
        raise InputError(
            f"teacher={target} does not take the {size} images of {info.name}, {info.num_classes} classes ({problem}); "
            "give another"
        )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: of their names, types, shapes and bytes, whatever file they came from.

    Example:
        >>> a, b = {"w": torch.zeros(2)}, {"w": torch.zeros(1, 2)}
        >>> tensors_sha256(a) == tensors_sha256({"w": torch.zeros(2)}) != tensors_sha256(b)
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole: Any = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {list(whole.shape)}\n".encode())
        digest.update(whole.view(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    return digest.hexdigest()
