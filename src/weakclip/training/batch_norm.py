"""Batch norms whose statistics are those of the whole batch, where several processes on CPUs share it.

torch's `SyncBatchNorm` does this on accelerators and has no form on CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the parts of a batch that all processes have; the parts are equally large.

    Forward and backward pass need every process. In evaluation mode it is an `nn.BatchNorm2d`.
    """

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` floating point to the same shape, normalised by mean and variance of all processes."""
        if not self.training:
            return super().forward(images)
        values = images.float()
        mean = _mean_of_all(values)
        centred = values - mean
        variance = _mean_of_all(centred.square())
        self._note(mean.detach().flatten(), variance.detach().flatten(), images.numel() // images.shape[1])
        normalised = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(images.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        """Bring the running statistics up to date, the variance without bias."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        pixels *= distributed.get_world_size()
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (pixels / max(1, pixels - 1)), weight)


def _mean_of_all(values: Tensor) -> Tensor:
    """The mean of each channel, `(1, C, 1, 1)`, over all processes; its gradient reaches all of them."""
    total: Tensor = _SumOfAll.apply(values.mean(dim=(0, 2, 3), keepdim=True))
    return total / distributed.get_world_size()


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; a gradient of it reaches the tensor of each."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def share_batch_norms(model: nn.Module) -> None:
    """Have the batch norms of a model, which keep their parameters and buffers, share their statistics.

    >>> model = nn.Sequential(nn.BatchNorm2d(2))
    >>> share_batch_norms(model)
    >>> type(model[0]).__name__
    'SharedBatchNorm2d'
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
