"""The layers that give a network's logits, and a temperature folded into them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import CalibrationError, InputError
from ..methods.base import evaluation_mode

FOLD_TOLERANCE = 1e-4  # between the logits before and T times those after, as a share of the largest


@torch.no_grad()
def fold_temperature(
    model: nn.Module, temperature: float, images: Tensor, classifier: str | Sequence[str] | None = None
) -> tuple[str, ...]:
    """Divides a network's logits by a temperature, for good: weight and bias of its classifier are divided, in place.

    Afterwards the logits of some images are compared with what they were. Where they are not the old ones divided by
    the temperature, e.g. because the classifier divides by the norm of its weights, the weights are put back.

    Args:
        model: Images ``(n, C, H, W)`` to logits. Its mode stays as it is.
        temperature: Above 0.
        images: ``(n, C, H, W)``, normalized, to compare with; on the model's device.
        classifier: Name of the layer that gives the logits, or several names; by default timm's ``get_classifier()``,
            and for a network without it its last ``nn.Linear``.

    Returns:
        Names of the tensors that were divided, as in the state dict.

    Raises:
        CalibrationError: It has no classifier that could be divided, or its logits are not those of a plain one; the
            weights are what they were.
        InputError: The temperature is not a number above 0, or there are no images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images = torch.randn(5, 1, 2, 2)
        >>> before = model(images)
        >>> fold_temperature(model, 2.0, images)
        ('1.weight', '1.bias')
        >>> torch.allclose(2.0 * model(images), before)
        True
    """
    if not 0.0 < temperature < math.inf or not len(images):
        raise InputError(f"temperature={temperature} with {len(images)} images: give a number above 0, and images")
    parameters = _parameters_of(_classifier_of(model, classifier))
    with evaluation_mode(model):
        before = model(images).cpu().double()
        kept = [parameter.clone() for parameter in parameters]
        off = math.nan
        try:
            for parameter in parameters:
                parameter.div_(temperature)
            # Compared with ``not <=``: a NaN is no match.
            off = float((model(images).cpu().double() * temperature - before).abs().max() / before.abs().max())
        finally:
            if not off <= FOLD_TOLERANCE:
                for parameter, values in zip(parameters, kept, strict=True):
                    parameter.copy_(values)
    if not off <= FOLD_TOLERANCE:
        raise CalibrationError(
            f"{type(model).__name__}: with its classifier divided by {temperature:g} its logits are not the old ones "
            f"divided by it (off by {off:.1e} of the largest)"
        )
    state = model.state_dict(keep_vars=True)
    return tuple(name for name, value in state.items() if any(value is parameter for parameter in parameters))


def _classifier_of(model: nn.Module, names: str | Sequence[str] | None) -> Sequence[nn.Module]:
    """The layers that give the logits."""
    if names is not None:
        try:
            return [model.get_submodule(name) for name in ([names] if isinstance(names, str) else names)]
        except AttributeError as error:
            raise CalibrationError(f"{type(model).__name__} has no layer of that name ({error})") from None
    if callable(getter := getattr(model, "get_classifier", None)):
        layers = getter()
        return list(layers) if isinstance(layers, (tuple, list, nn.ModuleList)) else [layers]
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


def _parameters_of(layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Weights and biases of the layers, each once.

    Raises:
        CalibrationError: There is none, or one is no plain linear layer in float32.
    """
    found: list[nn.Parameter] = []
    for layer in layers:
        own = dict(layer.named_parameters(recurse=False)) if isinstance(layer, nn.Module) else {}
        if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) or "weight" not in own:
            raise CalibrationError(f"the classifier is {type(layer).__name__}, no plain linear layer")
        if any(parameter.dtype not in (torch.float32, torch.float64) for parameter in own.values()):
            raise CalibrationError(f"the classifier is {own['weight'].dtype}, and only float32 holds the quotient")
        found += [parameter for parameter in own.values() if not any(parameter is other for other in found)]
    if not found:
        raise CalibrationError("there is no classifier")
    return found
