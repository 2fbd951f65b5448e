"""Pyramid adapter: four plain ViT feature maps become a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


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
            offset = weight @ doubling.bias + bias
        return functional.conv_transpose2d(self.maps, product, offset, stride=2)


class PyramidAdapter(nn.Module):
    """Patch features of four transformer layers -> maps at 1/4, 1/2, 1 and 2 times the patch size.

    With 16-pixel patches these are strides 4, 8, 16 and 32: the first map is up-sampled twice by 2x2 transposed
    convolutions (batch norm and GELU between), the second once, the third kept, the fourth halved by 2x2 max pooling.
    A one-group group norm comes first on each. The frozen image tower is not touched.

    Args:
        width: `D`, channels of the image tower.

    Source: Zhu et al., IJCV 2024.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(4))
        self.up_by_4 = nn.Sequential(_doubling(width), nn.BatchNorm2d(width), nn.GELU(), _doubling(width))
        self.up_by_2 = _doubling(width)

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Build the pyramid.

        Args:
            layers: four maps `(B, D, h, w)` float, from the lowest layer to the highest.

        Returns:
            `f'_1 ... f'_4`: `(B, D, 4h, 4w)`, `(B, D, 2h, 2w)`, `(B, D, h, w)`, `(B, D, h // 2, w // 2)`;
            a side of one patch stays one.
        """
        first, second, third, fourth = self.levels(layers)
        return first.doubling(first.maps), second.doubling(second.maps), third, fourth

    def levels(self, layers: Sequence[Tensor]) -> tuple[UndoubledLevel, UndoubledLevel, Tensor, Tensor]:
        """The pyramid for a decoder that begins with 1x1 convolutions: the last doublings are not done yet."""
        # Contiguous: torch 2.13's backward of group norm on the CPU crashes on channels-last inputs without gradient.
        first, second, third, fourth = (
            norm(layer.contiguous()) for norm, layer in zip(self.norms, layers, strict=True)
        )
        window = (min(2, fourth.shape[2]), min(2, fourth.shape[3]))
        last_doubling = self.up_by_4[-1]
        assert isinstance(last_doubling, nn.ConvTranspose2d)
        return (
            UndoubledLevel(self.up_by_4[:-1](first), last_doubling),
            UndoubledLevel(second, self.up_by_2),
            third,
            functional.max_pool2d(fourth, window),
        )


def _doubling(width: int) -> nn.ConvTranspose2d:
    """A 2x2 stride-2 transposed convolution that keeps the variance of its input at the start."""
    layer = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
    nn.init.normal_(layer.weight, std=width**-0.5)  # each output pixel is met by one kernel position: fan-in is `width`
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
