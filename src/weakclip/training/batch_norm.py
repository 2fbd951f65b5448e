"""Batch norms whose statistics are those of the whole batch, where several processes on CPUs share it.

torch's `SyncBatchNorm` does this on accelerators and has no form on CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the parts of a batch that all processes have; the parts are equally large.

    Forward and backward pass need every process, once each. In evaluation mode it is an `nn.BatchNorm2d`.
    """

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` floating point to the same shape, normalised by mean and variance of all processes."""
        if not self.training:
            return super().forward(images)
        with torch.no_grad():
            statistics = _statistics_of_all(images)
            self._note(statistics[0], statistics[1], images.numel() // images.shape[1])
        neutral = (torch.ones_like(statistics[0]), torch.zeros_like(statistics[0]))
        affine = torch.stack((self.weight, self.bias) if self.affine else neutral)
        normalised: Tensor = _Normalise.apply(images, affine, statistics, self.eps)
        return normalised

    def _note(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        """Bring the running statistics up to date, the variance without bias."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        pixels *= distributed.get_world_size()
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (pixels / max(1, pixels - 1)), weight)


def _statistics_of_all(images: Tensor) -> Tensor:
    """Mean and variance of each channel, `(2, C)` float32, over all processes."""
    unused = images.new_zeros(images.shape[1], dtype=torch.float32)  # of float32, and so are the results
    mean, variance = torch.batch_norm_update_stats(images, unused, unused.clone(), 0.0)
    mean = mean.double()
    mean, square = _sum_of_all(torch.stack([mean, variance + mean.square()])) / distributed.get_world_size()
    return torch.stack([mean, (square - mean.square()).clamp_min(0)]).float()


def _sum_of_all(values: Tensor) -> Tensor:
    distributed.all_reduce(values)
    return values


class _Normalise(torch.autograd.Function):
    """`(images - mean) / sqrt(variance + eps) · weight + bias`, where mean and variance are those of all processes.

    With `x̂` the normalised images and `g` the gradient of the result, the gradient of the images is
    `weight / sqrt(variance + eps) · (g - mean(g) - x̂ · mean(g · x̂))`, the means over all processes
    (Ioffe and Szegedy, ICML 2015, section 3); those of weight and bias are of this process's part.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, affine: Tensor, statistics: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(images, affine, statistics)
        ctx.eps = eps
        return _normalised(images, affine, statistics, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, (weight, _), (mean, variance) = ctx.saved_tensors
        of_images, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, images, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )  # as if mean and variance did not depend on the images
        own = torch.stack([of_weight, of_bias])
        pixels = images.numel() // images.shape[1] * distributed.get_world_size()
        slopes = _sum_of_all(own.clone()) / pixels * -weight * torch.rsqrt(variance + ctx.eps)
        return of_images.add_(_normalised(images, slopes, ctx.saved_tensors[2], ctx.eps)), own, None, None


def _normalised(images: Tensor, affine: Tensor, statistics: Tensor, eps: float) -> Tensor:
    """`affine[0] · x̂ + affine[1]`, in one pass over the images."""
    (weight, bias), (mean, variance) = affine, statistics
    return torch.batch_norm(images, weight, bias, mean, variance, False, 0.0, eps, False)


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
