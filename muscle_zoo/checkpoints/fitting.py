"""Whether weights are those of the network that their config.json describes, and whether they are of use."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import WeightsError, one_line
from . import registry, weights
from .card import shown

__all__ = ["fitting_model", "require_finite"]

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_WHOLE = frozenset(("I64", "I32", "I16", "I8", "U8", "BOOL"))


class _Undrawn(TorchFunctionMode):
    """Leaves new weights as they are.

    Networks draw their weights while they are built. On the meta device that draws nothing, but each call costs as much
    as ever, and they are most of the time of building: these are the calls that fill a tensor and do nothing else.
    """

    _FILLS = frozenset(
        (
            *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
            *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
        )
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def fitting_model(
    arch: str, cfg: dict[str, Any], model_args: dict[str, Any], checkpoint: weights.Checkpoint
) -> nn.Module:
    """The model that config.json describes, without memory for its weights, if they are the file's tensors.

    config.json may be hostile and ask for a network of any size. On the meta device tensors have shapes and no memory,
    so what it asks for is compared with what the weights' header says, and refused before any memory is taken for it.

    Raises:
        WeightsError: It cannot be built, or the file holds other tensors.
    """
    try:
        with torch.device("meta"), _Undrawn():
            model = timm.create_model(arch, pretrained_cfg=cfg, **model_args)
        problem = _misfit(checkpoint.tensors, model.state_dict()) or _wrong_classifier(checkpoint.tensors, cfg)
    except Exception as error:  # the file decides what is called with which arguments
        problem = one_line(error) or type(error).__name__
    if problem is not None:
        raise WeightsError(
            f"{checkpoint.origin}: {arch} cannot be built from it ({problem}); download or export it again"
        )
    return model


def _misfit(in_file: dict[str, weights.TensorInfo], in_model: dict[str, Tensor]) -> str | None:
    """The first tensor of a file that is not the model's, in words."""
    for name, tensor in in_model.items():
        if name not in in_file:
            return f"{registry.WEIGHTS_FILE} lacks the tensor {name}"
        shape, dtype = in_file[name].shape, in_file[name].dtype
        if shape != tuple(tensor.shape):
            shapes = f"{list(shape)} in {registry.WEIGHTS_FILE}, {list(tensor.shape)} by config.json"
            return f"the tensor {name} is {shapes}"
        if dtype not in (_FLOATS if tensor.is_floating_point() else _WHOLE):
            return f"the tensor {name} is {dtype} in {registry.WEIGHTS_FILE}, the model's is {tensor.dtype}"
    foreign = next((name for name in in_file if name not in in_model), None)
    return foreign and f"{registry.WEIGHTS_FILE} has a tensor {shown(foreign)} that the model has not"


def _wrong_classifier(in_file: dict[str, weights.TensorInfo], cfg: dict[str, Any]) -> str | None:
    """Timm gives the layers of these names fresh weights for other classes: only a classifier may be one, in words."""
    names = cfg.get("classifier") or ()
    for name in [names] if isinstance(names, str) else names:
        weight = in_file.get(f"{name}.weight")
        if weight is not None and weight.shape[:1] != (cfg["num_classes"],):
            return f"pretrained_cfg.classifier={name!r} is not its classifier"
    return None


def require_finite(model: nn.Module, checkpoint: weights.Checkpoint) -> None:
    """Weights that are not finite are damaged, negative variances too: every logit would be NaN."""
    values = {key: value for key, value in model.state_dict().items() if value.is_floating_point()}
    if not nn.utils.get_total_norm(values.values()).isfinite():
        for key, value in values.items():
            if not value.isfinite().all():
                what = f"the tensor {key} has values that are not finite"
                raise WeightsError(f"{checkpoint.weights}: {what}; download or export it again")

    for key, value in values.items():
        if key.endswith("running_var") and (value < 0).any():
            what = f"the tensor {key} has negative variances"
            raise WeightsError(f"{checkpoint.weights}: {what}; download or export it again")
