"""BatchNorm over the global batch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..losses.distributed import all_reduce_sum


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose batch statistics are those of all processes together, with gradients.

    torch's SyncBatchNorm does not run on a CPU. Parameters, buffers and their names are BatchNorm2d's. Every process
    must hold the same number of images.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes ``(n, C, H, W)``; statistics are computed in float32 at least."""
        if not self.training or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        size = torch.distributed.get_world_size() * x.numel() // x.shape[1]
        mean = all_reduce_sum(wide.sum(dim=(0, 2, 3))) / size
        centered = wide - mean[:, None, None]
        variance = all_reduce_sum(centered.square().sum(dim=(0, 2, 3))) / size
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = variance * size / max(size - 1, 1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        out = centered * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)


def synchronize_batchnorm(model: nn.Module) -> nn.Module:
    """Makes every BatchNorm2d of a model use the statistics of the global batch, in place.

    Args:
        model: A model; its parameters and buffers stay the same tensors under the same names.

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # keeps parameters, buffers and hooks, and needs no copy
    return model
