"""Text-guided decoder: pyramid and match map -> logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextGuidedDecoder(nn.Module):
    """The match map joins every pyramid level; a feature pyramid and a Semantic-FPN head decode them.

    Args:
        in_channels: `D`, channels of the pyramid.
        num_classes: `K`, with the background.
        channels: width of the decoder.
        dropout: of whole channels before the classifier, 0...1.

    Source: Zhu et al., IJCV 2024; Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.channels = channels
        self.feature_pyramid = FeaturePyramid(in_channels + num_classes, channels)
        self.head = SemanticHead(channels, num_classes, dropout=dropout)

    def forward(self, pyramid: Sequence[Tensor], match_map: Tensor) -> Tensor:
        """Decode.

        Args:
            pyramid: `f'_1 ... f'_4`, `(B, D, h_i, w_i)` float, the finest first.
            match_map: `(B, K, h, w)` float.

        Returns:
            Logits at the resolution of the finest map, `(B, K, h_1, w_1)`.
        """
        guided = [
            torch.cat([features, _resized(match_map, features, align_corners=True).to(features.dtype)], dim=1)
            for features in pyramid
        ]
        return self.head(self.feature_pyramid(guided))


def _resized(maps: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    """`maps` at the size of `like`, bilinearly."""
    size = (like.shape[2], like.shape[3])
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


class FeaturePyramid(nn.Module):
    """1x1 lateral convolutions, top-down addition (nearest), 3x3 convolutions.

    Args:
        in_channels: channels of every level.
        channels: channels of every result.
        levels: how many levels.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
    """

    def __init__(self, in_channels: int, channels: int, *, levels: int = 4) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for _ in range(levels))
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        for convolution in (*self.laterals, *self.outputs):
            nn.init.xavier_uniform_(convolution.weight)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """`(B, in_channels, h_i, w_i)`, the finest first -> `(B, channels, h_i, w_i)`."""
        merged = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            coarser = functional.interpolate(merged[finer + 1], size=merged[finer].shape[2:], mode="nearest")
            merged[finer] = merged[finer] + coarser
        return [output(level) for output, level in zip(self.outputs, merged, strict=True)]


class SemanticHead(nn.Module):
    """Each level is convolved and doubled until it is as fine as the first; the sum is classified.

    Level `i` has `max(1, i)` blocks of 3x3 convolution, batch norm and ReLU, each followed (from level 1 on) by
    bilinear doubling.

    Args:
        channels: of every level.
        num_classes: `K`.
        levels: how many levels, each half as fine as the one before.
        dropout: of whole channels before the classifier, 0...1.
    """

    def __init__(self, channels: int, num_classes: int, *, levels: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_branch(channels, level) for level in range(levels))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """`(B, channels, h_i, w_i)`, the finest first -> logits `(B, K, h_1, w_1)`."""
        finest, *others = (branch(level) for branch, level in zip(self.branches, levels, strict=True))
        for other in others:
            finest = finest + _resized(other, finest, align_corners=False)  # sizes differ where an odd side was halved
        logits: Tensor = self.classifier(self.dropout(finest))
        return logits


def _branch(channels: int, level: int) -> nn.Sequential:
    """One block at level 0; further down, `level` blocks, each followed by doubling."""
    if level == 0:
        return nn.Sequential(_block(channels))
    steps = [(_block(channels), nn.Upsample(scale_factor=2, mode="bilinear")) for _ in range(level)]
    return nn.Sequential(*(module for step in steps for module in step))


def _block(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
