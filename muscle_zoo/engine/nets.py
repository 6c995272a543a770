"""What a method with gradients of its own may ask of a run."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..losses.distributed import mean_over_processes
from .network import Network


class TrainedNets:
    """The run's network, for :meth:`muscle_zoo.methods.Method.backward`.

    Args:
        model: The network that is trained, with the method's parts and without any wrapper.
        accelerator: Takes the gradients of a step; None for a plain ``backward()``.

    Attributes:
        lr: The learning rate of the step; the loop sets it.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator | None = None) -> None:
        self.model, self.accelerator, self.lr = model, accelerator, 0.0
        self.backbone: nn.Module = model.backbone if isinstance(model, Network) else model

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar to those that the optimizer takes."""
        theirs = self.accelerator
        if theirs is None or (theirs.gradient_accumulation_steps == 1 and theirs.scaler is None):
            loss.backward()  # Accelerate's would divide by one, which counts where a step takes a millisecond
        else:
            theirs.backward(loss)

    def gradients(self, loss: Tensor) -> Tensor:
        """The gradient of a scalar with respect to the trained parameters, ``(P,)``, over all processes."""
        parameters = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        # A classifier, say, has no part in a pretext task.
        whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        # DistributedDataParallel averages what backward() adds up, and nothing else.
        return mean_over_processes(torch.cat([gradient.flatten() for gradient in whole]))
