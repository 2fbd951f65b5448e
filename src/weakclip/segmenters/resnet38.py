"""ResNet38: a wide and shallow residual network, dilated so that its output has stride 8.

Blocks are pre-activated: norm, rectifier, convolution. The first block of a stage takes its shortcut (1×1)
after norm and rectifier. The last two stages are single bottlenecks with dropout. Parameters have the names of the
released code of AffinityNet, so that its checkpoints fit.

References:
    Wu, Shen and van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", 2016
    (arXiv:1611.10080), model A1.
    Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
    Segmentation", CVPR 2018, and its released code (dilations, dropout, frozen norms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.errors import ConfigError

PUBLISHED_WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Channels of the first convolution and of the stages b2 … b7."""

STRIDE = 8
"""Pixels from one output to the next; a side of `n` pixels gives `⌈n / 8⌉` outputs."""

_BLOCKS = (("b2", 3), ("b3", 3), ("b4", 6), ("b5", 3))
_DROPOUT = (0.3, 0.5)  # of b6 and b7


def check_widths(widths: Sequence[int]) -> None:
    """Raise a `ConfigError` unless these are seven widths that a ResNet38 can have."""
    check_counts("widths", widths, 7)
    if widths[4] % 2 or widths[5] % 4 or widths[6] % 4:
        raise ConfigError(f"widths: the last three multiples of 2, 4 and 4 expected; found {list(widths)}")


def check_counts(name: str, numbers: Sequence[int], expected: int) -> None:
    """Raise a `ConfigError` that names `name` unless these are as many whole numbers of 1 and more."""
    whole = isinstance(numbers, list | tuple) and all(type(number) is int and number > 0 for number in numbers)
    if not whole or len(numbers) != expected:
        found = list(numbers) if isinstance(numbers, tuple) else numbers
        raise ConfigError(f"{name}: {expected} whole numbers of 1 and more expected; found {found!r}")


class ResNet38Features(NamedTuple):
    """The levels that AffinityNet taps, all after norm and rectifier, all `(B, C, ⌈H/8⌉, ⌈W/8⌉)`.

    Args:
        conv4: of stage b4, `widths[3]` channels (512).
        conv5: of stage b5, `widths[4]` channels (1024).
        conv6: of stage b7, `widths[6]` channels (4096).
    """

    conv4: Tensor
    conv5: Tensor
    conv6: Tensor


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, pre-activated.

    Args:
        channels: of input, between the convolutions, and of the output.
        stride: of the first convolution.
        dilations: of the two convolutions.
    """

    def __init__(self, channels: tuple[int, int, int], stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        wide, middle, out = channels
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(wide)
        self.conv_branch2a = nn.Conv2d(wide, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, out, 3, padding=second, dilation=second, bias=False)
        changes = wide != out or stride != 1
        self.conv_branch1 = nn.Conv2d(wide, out, 1, bias=False) if changes else None
        self.stride = stride

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the input after norm and rectifier."""
        active = F.relu(self.bn_branch2a(x))
        # Every second pixel first, then a convolution of stride 1: the same values. On a CPU, the backward pass of a
        # 1×1 convolution of stride 2 on channels-last tensors was seen to corrupt memory (torch 2.13; where it reads
        # fewer channels than a block of 8 or 16: github.com/uxlfoundation/oneDNN, issue 6035).
        seen = active[..., :: self.stride, :: self.stride]
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(seen)
        branch = self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        return shortcut + branch, active


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions to a quarter, half and all of the output's channels, pre-activated, with dropout.

    Args:
        wide: channels of the input.
        out: channels of the output, a multiple of 4.
        dilation: of the 3×3 convolution.
        dropout: share of channels that training sets to 0 before the last two convolutions.
    """

    def __init__(self, wide: int, out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(wide)
        self.conv_branch2a = nn.Conv2d(wide, out // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(out // 4)
        self.conv_branch2b1 = nn.Conv2d(out // 4, out // 2, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(out // 2)
        self.conv_branch2b2 = nn.Conv2d(out // 2, out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(wide, out, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the input after norm and rectifier."""
        active = F.relu(self.bn_branch2a(x))
        branch = self.dropout(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        branch = self.dropout(F.relu(self.bn_branch2b2(self.conv_branch2b1(branch))))
        return self.conv_branch1(active) + self.conv_branch2b2(branch), active


class ResNet38(nn.Module):
    """The trunk without its classifier.

    Args:
        widths: channels of the first convolution and of the six stages; the last three are multiples of 2, 4 and 4.
        frozen_norms: whether batch norm keeps its statistics and scales, as the released code does with a trunk that
            was trained on ImageNet. From fresh weights norms have to learn.
        frozen: names of further parts whose weights are not trained ("conv1a", "b2", …).

    Raises:
        ConfigError: other widths.
    """

    def __init__(
        self, widths: Sequence[int] = PUBLISHED_WIDTHS, *, frozen_norms: bool = False, frozen: Sequence[str] = ()
    ) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.frozen_norms = tuple(widths), frozen_norms
        self.conv1a = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        for level, (stage, count) in enumerate(_BLOCKS, start=1):
            dilated = stage == "b5"
            stride, dilation = (1, 2) if dilated else (2, 1)
            out = widths[level]
            middle = out // 2 if dilated else out
            self.add_module(stage, ResidualBlock((widths[level - 1], middle, out), stride, (1, dilation)))
            for index in range(1, count):
                self.add_module(f"{stage}_{index}", ResidualBlock((out, middle, out), 1, (dilation, dilation)))
        self.b6 = Bottleneck(widths[4], widths[5], dilation=4, dropout=_DROPOUT[0])
        self.b7 = Bottleneck(widths[5], widths[6], dilation=4, dropout=_DROPOUT[1])
        self.bn7 = nn.BatchNorm2d(widths[6])
        for name in frozen:
            self.get_submodule(name).requires_grad_(False)
        for norm in self._norms() if frozen_norms else ():
            norm.requires_grad_(False)
        self.train(self.training)

    def forward(self, pixels: Tensor) -> ResNet38Features:
        """Features of three levels.

        Args:
            pixels: `(B, 3, H, W)` float, normalised with ImageNet's statistics.
        """
        x, tapped = self.conv1a(pixels), {}
        for name, block in self.named_children():
            if name.startswith("b") and name != "bn7":
                x, tapped[name] = block(x)
        return ResNet38Features(tapped["b5"], tapped["b6"], F.relu(self.bn7(x)))

    def train(self, mode: bool = True) -> ResNet38:
        """Training or evaluation mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._norms() if self.frozen_norms else ():
            norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
