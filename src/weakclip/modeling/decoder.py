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
        guided = [torch.cat([features, _resized(match_map, features)], dim=1) for features in pyramid]
        return self.head(self.feature_pyramid(guided))


def _resized(match_map: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[2], like.shape[3])
    if match_map.shape[2:] != size:
        match_map = functional.interpolate(match_map, size=size, mode="bilinear", align_corners=True)
    return match_map.to(like.dtype)


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
            nn.init.zeros_(convolution.bias)

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
        self.branches = nn.ModuleList(
            nn.ModuleList(_block(channels) for _ in range(max(1, level))) for level in range(levels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """`(B, channels, h_i, w_i)`, the finest first -> logits `(B, K, h_1, w_1)`."""
        total = self.branches[0][0](levels[0])
        for blocks, level in zip(self.branches[1:], levels[1:], strict=True):
            finer = level
            for block in blocks:
                finer = functional.interpolate(block(finer), scale_factor=2, mode="bilinear", align_corners=False)
            if finer.shape[2:] != total.shape[2:]:  # an odd side was halved
                finer = functional.interpolate(finer, size=total.shape[2:], mode="bilinear", align_corners=False)
            total = total + finer
        return self.classifier(self.dropout(total))


def _block(channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
