"""Sums over processes that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """The derivative of a sum that every process holds is the sum of what every process sends back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sums a tensor over all processes, with gradients; the identity in a single process.

    A plain ``dist.all_reduce`` is invisible to autograd and leaves each process 1/world_size of the gradient.
    Together with DistributedDataParallel, which averages gradients over processes, the gradient of a loss computed
    from such a sum on every process is the single-process gradient.

    Args:
        x: Any floating tensor, of the same shape on every process.

    Returns:
        The sum, the same on every process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return _AllReduceSum.apply(x)


class _GatherRows(torch.autograd.Function):
    """The derivative of rows that every process holds is the sum of what every process sends back for them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """The rows of a tensor on all processes, one after the other, with gradients.

    Each process may take the mean over its own rows of what it works out from all of them: together with
    DistributedDataParallel, which averages gradients, the gradient is that of the mean over all rows in one process.

    Args:
        x: ``(n, ...)``, of the same shape on every process.

    Returns:
        ``(world_size * n, ...)``, the same on every process, and at which row this process's own begin.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x, 0
    return _GatherRows.apply(x), dist.get_rank() * len(x)


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradients; the tensor itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / dist.get_world_size()


def rows_of_all_processes(x: Tensor) -> Tensor:
    """The rows of a tensor on all processes, one after the other, without gradients.

    Args:
        x: ``(n, ...)``, of the same shape on every process.

    Returns:
        ``(world_size * n, ...)``, the same on every process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
