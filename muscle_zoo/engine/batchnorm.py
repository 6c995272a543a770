"""BatchNorm over the global batch, on any device."""

from __future__ import annotations

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from ..errors import InputError
from ..losses.distributed import all_reduce_sum


class _GlobalStatistics(_BatchNorm):
    """A BatchNorm whose batch statistics are those of all processes together, with gradients.

    torch's SyncBatchNorm does not run on a CPU. Every process must hold the same number of images. In evaluation
    mode, and on one process, it is the class it is mixed into.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes ``(n, C, ...)``; then come the dropout and the activation that some of timm's norms hold."""
        if not self.training or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return super().forward(x)
        x = self._normalize(x)
        for name in ("drop", "act"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x

    def _normalize(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision would lose the small variances
        dims = [dim for dim in range(x.ndim) if dim != 1]
        per_channel = (1, -1, *(1 for _ in dims[1:]))
        size = torch.distributed.get_world_size() * x.numel() // x.shape[1]
        mean = all_reduce_sum(wide.sum(dim=dims)) / size
        # The deviations are from the global mean, so a second sum has to travel: the difference of the mean square and
        # the squared mean would travel at once, and cancels where the mean is large.
        centered = wide - mean.view(per_channel)
        variance = all_reduce_sum(centered.square().sum(dim=dims)) / size
        self._track(mean.detach(), variance.detach() * size / max(size - 1, 1))
        out = centered * torch.rsqrt(variance + self.eps).view(per_channel)
        if self.weight is not None:
            out = out * self.weight.view(per_channel)
        if self.bias is not None:
            out = out + self.bias.view(per_channel)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics; a momentum of None averages over all batches since the first, as in torch."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), momentum)


class GlobalBatchNorm1d(_GlobalStatistics, nn.BatchNorm1d):
    """BatchNorm1d over the global batch."""


class GlobalBatchNorm2d(_GlobalStatistics, nn.BatchNorm2d):
    """BatchNorm2d over the global batch."""


class GlobalBatchNorm3d(_GlobalStatistics, nn.BatchNorm3d):
    """BatchNorm3d over the global batch."""


class GlobalBatchNormAct2d(_GlobalStatistics, BatchNormAct2d):
    """timm's BatchNorm with an activation, over the global batch."""


class GlobalSyncBatchNorm(_GlobalStatistics, nn.SyncBatchNorm):
    """SyncBatchNorm that runs on a CPU too."""


class GlobalSyncBatchNormAct(_GlobalStatistics, SyncBatchNormAct):
    """timm's SyncBatchNorm with an activation; it runs on a CPU too."""


# By the exact type: what a subclass changes is not known here.
_GLOBAL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
    nn.BatchNorm3d: GlobalBatchNorm3d,
    BatchNormAct2d: GlobalBatchNormAct2d,
    nn.SyncBatchNorm: GlobalSyncBatchNorm,
    SyncBatchNormAct: GlobalSyncBatchNormAct,
}


class _RunningStatistics(_BatchNorm):
    """A BatchNorm that stays in evaluation mode: it normalizes with its running statistics, and leaves them alone."""

    def train(self, mode: bool = True) -> _RunningStatistics:
        """Stays as it is, whatever the mode of the network."""
        return super().train(False)


def freeze_statistics(norm: nn.Module) -> None:
    """Makes a BatchNorm normalize with its running statistics in training too, in place; its tensors stay the same."""
    if not isinstance(norm, _RunningStatistics):
        kind = type(norm)
        norm.__class__ = type(f"Still{kind.__name__}", (_RunningStatistics, kind), {})
    norm.train()


_WITHOUT_BATCH_STATISTICS = (FrozenBatchNormAct2d, FrozenBatchNorm2d, _RunningStatistics, *_GLOBAL.values())


def synchronize_batchnorm(model: nn.Module, arch: str) -> nn.Module:
    """Makes every BatchNorm of a model use the statistics of the global batch, in place.

    Args:
        model: A model; its parameters and buffers stay the same tensors under the same names.
        arch: Its architecture, for the error.

    Returns:
        The same model.

    Raises:
        InputError: A layer takes batch statistics in a way of its own; nothing was changed.
    """
    modules = list(model.modules())
    for module in modules:
        if type(module) not in _GLOBAL and _takes_batch_statistics(module):
            raise InputError(
                f"arch={arch} has a {type(module).__name__}, whose batch statistics cannot be shared between "
                "processes; train on one process, or give another arch"
            )
    for module in modules:
        if (synchronized := _GLOBAL.get(type(module))) is not None:
            module.__class__ = synchronized  # keeps parameters, buffers and hooks, and needs no copy
    return model


def _takes_batch_statistics(module: nn.Module) -> bool:
    """Whether a layer is a BatchNorm or keeps running statistics as one does: EvoNorm-B and InplaceAbn, say.

    Norms over one image's channels (LayerNorm, GroupNorm, InstanceNorm, EvoNorm-S, FilterResponseNorm) keep none.
    """
    if isinstance(module, _WITHOUT_BATCH_STATISTICS):
        return False
    own = dict(module.named_buffers(recurse=False))
    return isinstance(module, _BatchNorm) or "running_mean" in own or "running_var" in own
