"""What of a network is trained: the last layers, the classifier first, BatchNorm's statistics or not."""

from __future__ import annotations

from collections.abc import Iterable

from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..recipes import Recipe
from .batchnorm import freeze_statistics
from .network import Network

__all__ = ["Probe", "freeze"]


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Leaves as they are those parts of a network that a recipe does not train, in place.

    Their parameters need no gradient, so no optimizer gets them and no weight decay moves them; their BatchNorm
    normalizes with its running statistics, which stay. With ``frozen_batchnorm`` that holds for every BatchNorm, whose
    weight and bias are trained like others.

    Args:
        model: One of timm's.
        recipe: Its ``tune`` and ``frozen_batchnorm``.

    Raises:
        InputError: The architecture has no layer groups, or fewer than ``tune`` names.
    """
    frozen = _frozen_names(model, recipe) if recipe.tune.startswith("last:") else set()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (recipe.frozen_batchnorm or (frozen and _is_frozen(model, name))):
            freeze_statistics(module)


def _is_frozen(model: nn.Module, name: str) -> bool:
    """Whether nothing is trained in a layer, or, where it has no parameters, in what it is a part of."""
    parameters = list(model.get_submodule(name).parameters())
    if not parameters and name:
        return _is_frozen(model, name.rpartition(".")[0])
    return not any(parameter.requires_grad for parameter in parameters)


def _frozen_names(model: nn.Module, recipe: Recipe) -> set[str]:
    """Parameters in front of the last N groups; the classifier's group does not count among these."""
    count = int(recipe.tune.removeprefix("last:"))
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise InputError(f"tune={recipe.tune}: timm knows no layer groups of arch={recipe.arch}; give tune=all")
    groups: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(groups.values())
    if count > last:
        raise InputError(
            f"tune={recipe.tune}: arch={recipe.arch} has {last} layer groups before its classifier; give "
            f"tune=last:{last} or less, or tune=all"
        )
    classifier = set(map(id, classifier_parameters(model)))
    always = {name for name, parameter in model.named_parameters() if id(parameter) in classifier}
    return {name for name, group in groups.items() if group < last - count} - always


def classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the layers that give the logits; without timm's ``get_classifier()`` there are none."""
    getter = getattr(model.backbone if isinstance(model, Network) else model, "get_classifier", None)
    layers = getter() if callable(getter) else ()
    several = layers if isinstance(layers, (tuple, list, nn.ModuleList)) else [layers]
    return [parameter for layer in several if isinstance(layer, nn.Module) for parameter in layer.parameters()]


class Probe:
    """The first ``probe_steps`` of a run, in which the classifier alone is trained (LP-FT, arXiv 2202.10054).

    A classifier that is drawn at random would send large gradients into pretrained layers and distort them; trained
    first, it sends small ones. The other layers have no gradients, which an optimizer neither moves, decays nor
    remembers, and no backward pass; BatchNorm normalizes with its running statistics.

    Args:
        model: The network.
        recipe: Its ``probe_steps``.
        all_gradients: Whether somebody waits for the gradients of all layers, DistributedDataParallel or a method with
            a backward of its own: then they are worked out, and dropped.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, all_gradients: bool = False) -> None:
        self.steps = recipe.probe_steps
        kept = set(map(id, classifier_parameters(model)))
        if self.steps and not kept:
            raise InputError(f"probe_steps={self.steps}: arch={recipe.arch} has no classifier to probe; give 0")
        self._others = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
        self._all_gradients = all_gradients
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]

    def begin(self, step: int) -> None:
        """Sets for a step what has gradients, and BatchNorm's mode; an evaluation left all of it in training mode."""
        if self.steps:
            for norm in self._norms:
                norm.train(step >= self.steps)
            for parameter in () if self._all_gradients else self._others:
                parameter.requires_grad_(step >= self.steps)

    def drop_gradients(self, step: int) -> None:
        """Forgets the gradients of all that is not trained at a step, where there are any."""
        if self._all_gradients and step < self.steps:
            _forget(self._others)


def _forget(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None
