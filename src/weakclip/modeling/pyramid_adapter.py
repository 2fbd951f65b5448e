"""Pyramid adapter: four plain ViT feature maps become a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakclip.errors import EncoderError
from weakclip.training.memory_order import order_of

LEVELS = (4.0, 2.0, 1.0, 0.5)
"""Side of each pyramid level in sides of the patch grid."""


class UndoubledLevel(NamedTuple):
    """A pyramid level before its last step, a doubling without anything non-linear after it.

    What follows in the decoder is a 1x1 convolution, and two linear steps are one: with the product of both weights
    the fine map of `D` channels, the largest of the whole model, is never made.

    Args:
        maps: `(B, D, h, w)` float.
        doubling: the 2x2 stride-2 transposed convolution, `D` -> `D` channels.
    """

    maps: Tensor
    doubling: nn.ConvTranspose2d

    def projected(self, weight: Tensor, bias: Tensor) -> Tensor:
        """A 1x1 convolution of the doubled level.

        Args:
            weight: `(C, D)`.
            bias: `(C,)`.

        Returns:
            `(B, C, 2h, 2w)`.
        """
        doubling = self.doubling
        assert doubling.bias is not None
        with torch.autocast(weight.device.type, enabled=False):  # rounded once, as one weight is
            product = torch.einsum("ioyx,co->icyx", doubling.weight, weight)
            # In the weights' own order: that of `einsum` would decide on the order of all convolutions after it.
            product = product.contiguous(memory_format=order_of(doubling.weight))
            offset = weight @ doubling.bias + bias
        return functional.conv_transpose2d(self.maps, product, offset, stride=2)


class PyramidAdapter(nn.Module):
    """Patch features of four transformer layers -> maps at 1/4, 1/2, 1 and 2 times the patch size.

    With 16-pixel patches these are strides 4, 8, 16 and 32: the first map is up-sampled twice by 2x2 transposed
    convolutions (batch norm and GELU between), the second once, the third kept, the fourth halved by 2x2 max pooling.
    A one-group group norm comes first on each. The frozen image tower is not touched.

    Maps that come finer or coarser than the patch grid are doubled or pooled as often as it takes.

    Args:
        width: `D`, channels of the image tower, or those of each of the four maps.
        scales: side of each map in sides of the patch grid, powers of two.

    Raises:
        EncoderError: a scale that is no power of two.

    Source: Zhu et al., IJCV 2024, for maps of one width and size.
    """

    def __init__(self, width: int | Sequence[int], *, scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        widths, self.doublings = level_widths(width), doublings(scales)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.up_by_4, self.up_by_2, self.up_third, self.up_fourth = map(_enlarging, widths, self.doublings)

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Build the pyramid.

        Args:
            layers: four maps `(B, D_i, h, w)` float, from the lowest layer to the highest.

        Returns:
            `f'_1 ... f'_4`: `(B, D_1, 4h, 4w)`, `(B, D_2, 2h, 2w)`, `(B, D_3, h, w)`, `(B, D_4, h // 2, w // 2)`;
            a side of one patch stays one.
        """
        first, second, third, fourth = map(_finished, self.levels(layers))
        return first, second, third, fourth

    def levels(self, layers: Sequence[Tensor]) -> list[Tensor | UndoubledLevel]:
        """The pyramid for a decoder that begins with 1x1 convolutions: the last doublings are not done yet."""
        # Contiguous: torch 2.13's backward of group norm on the CPU crashes on channels-last inputs without gradient.
        normed = [norm(layer.contiguous()) for norm, layer in zip(self.norms, layers, strict=True)]
        steps = (self.up_by_4, self.up_by_2, self.up_third, self.up_fourth)
        return [_level(*each) for each in zip(normed, steps, self.doublings, strict=True)]


def level_widths(width: int | Sequence[int]) -> tuple[int, ...]:
    """Channels of each pyramid level: the same number for all, or one each."""
    return (width,) * len(LEVELS) if isinstance(width, int) else tuple(width)


def doublings(scales: Sequence[float]) -> list[int]:
    """How often each of four maps is doubled to become its pyramid level; -1 stands for one halving.

    >>> doublings((1, 1, 1, 1)), doublings((4, 2, 1, 0.5))
    ([2, 1, 0, -1], [0, 0, 0, 0])

    Raises:
        EncoderError: a scale that is no power of two.
    """
    steps = [math.log2(level / scale) if scale > 0 else 0.5 for level, scale in zip(LEVELS, scales, strict=True)]
    if not all(step.is_integer() for step in steps):
        raise EncoderError(f"layer_scales are powers of two; found {tuple(scales)}")
    return [int(step) for step in steps]


def pooled(maps: Tensor, halvings: int) -> Tensor:
    """`maps` halved some times by max pooling; a side of one stays one."""
    window = [min(2**halvings, side) for side in maps.shape[2:]]
    return functional.max_pool2d(maps, window)


def _level(maps: Tensor, step: nn.Module, count: int) -> Tensor | UndoubledLevel:
    if count <= 0:
        return pooled(maps, -count) if count else maps
    if isinstance(step, nn.Sequential):
        maps, step = step[:-1](maps), step[-1]
    assert isinstance(step, nn.ConvTranspose2d)
    return UndoubledLevel(maps, step)


def _finished(level: Tensor | UndoubledLevel) -> Tensor:
    return level.doubling(level.maps) if isinstance(level, UndoubledLevel) else level


def _enlarging(width: int, count: int) -> nn.Module:
    """`count` doublings, with batch norm and GELU between; nothing where there are none."""
    if count == 1:
        return _doubling(width)
    between = [(_doubling(width), nn.BatchNorm2d(width), nn.GELU()) for _ in range(count - 1)]
    last = [_doubling(width)] if count > 0 else []
    return nn.Sequential(*(module for step in between for module in step), *last)


def _doubling(width: int) -> nn.ConvTranspose2d:
    """A 2x2 stride-2 transposed convolution that keeps the variance of its input at the start."""
    layer = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
    nn.init.normal_(layer.weight, std=width**-0.5)  # each output pixel is met by one kernel position: fan-in is `width`
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
