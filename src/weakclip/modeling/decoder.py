"""Text-guided decoder: pyramid and match map -> logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakclip.modeling.pyramid_adapter import UndoubledLevel, level_widths


class TextGuidedDecoder(nn.Module):
    """The match map joins every pyramid level; a feature pyramid and a Semantic-FPN head decode them.

    Args:
        in_channels: `D`, channels of the pyramid, or those of each of its four levels.
        num_classes: `K`, with the background.
        channels: width of the decoder.
        dropout: of whole channels before the classifier, 0...1.

    Source: Zhu et al., IJCV 2024; Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019.
    """

    def __init__(
        self, in_channels: int | Sequence[int], num_classes: int, *, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.channels = channels
        guided = [width + num_classes for width in level_widths(in_channels)]
        self.feature_pyramid = FeaturePyramid(guided, channels)
        self.head = SemanticHead(channels, num_classes, dropout=dropout)

    def forward(self, pyramid: Sequence[Tensor | UndoubledLevel], match_map: Tensor) -> Tensor:
        """Decode.

        Args:
            pyramid: `f'_1 ... f'_4`, `(B, D_i, h_i, w_i)` float, the finest first; with or without their last doubling.
            match_map: `(B, K, h, w)` float.

        Returns:
            Logits at the resolution of the finest map, `(B, K, h_1, w_1)`.
        """
        return self.head(self.feature_pyramid(pyramid, match_map))


def _resized(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """`maps` at another size, bilinearly."""
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


class FeaturePyramid(nn.Module):
    """1x1 lateral convolutions, top-down addition (nearest), 3x3 convolutions.

    Args:
        in_channels: channels of every level, or of each of the four, those of the match map included where one joins
            the levels.
        channels: channels of every result.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
    """

    def __init__(self, in_channels: int | Sequence[int], channels: int) -> None:
        super().__init__()
        widths = level_widths(in_channels)
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        for convolution in (*self.laterals, *self.outputs):
            nn.init.xavier_uniform_(convolution.weight)

    def forward(self, levels: Sequence[Tensor | UndoubledLevel], match_map: Tensor | None = None) -> list[Tensor]:
        """Merge.

        Args:
            levels: `(B, D_i, h_i, w_i)` float, the finest first; with or without their last doubling.
            match_map: `(B, K, h, w)` float, which joins the channels of every level (resized, corners aligned).

        Returns:
            `(B, channels, h_i, w_i)`, the finest first.
        """
        merged = [_lateral(layer, level, match_map) for layer, level in zip(self.laterals, levels, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            coarser = functional.interpolate(merged[finer + 1], size=merged[finer].shape[2:], mode="nearest")
            merged[finer] = merged[finer] + coarser
        return [output(level) for output, level in zip(self.outputs, merged, strict=True)]


def _lateral(layer: nn.Module, level: Tensor | UndoubledLevel, match_map: Tensor | None) -> Tensor:
    """The 1x1 convolution of level and match map, each with its part of the weight: they are not copied together."""
    assert isinstance(layer, nn.Conv2d)
    channels = level.maps.shape[1] if isinstance(level, UndoubledLevel) else level.shape[1]
    weight = layer.weight[:, :channels]
    if isinstance(level, UndoubledLevel):
        assert layer.bias is not None
        projected = level.projected(weight[:, :, 0, 0], layer.bias)
    else:
        projected = functional.conv2d(level, weight, layer.bias)
    if match_map is None:
        return projected
    guide = _resized(match_map, _size(projected), align_corners=True).to(projected.dtype)
    return projected + functional.conv2d(guide, layer.weight[:, channels:])


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
        # Classifying and enlarging can change places, both are linear: the fewer channels are enlarged.
        weight, size = self._dropped_weight(levels[0]), _size(levels[0])
        classified = _classified(self.branches[0](levels[0]), weight)
        assert self.classifier.bias is not None
        logits = classified + self.classifier.bias[:, None, None]
        for branch, level in zip(self.branches[1:], levels[1:], strict=True):
            assert isinstance(branch, nn.Sequential)
            doubled = branch[-1](_classified(branch[:-1](level), weight))
            logits = logits + _resized(doubled, size, align_corners=False)  # sizes differ where an odd side was halved
        return logits

    def _dropped_weight(self, like: Tensor) -> Tensor:
        """The classifier's weight for every image, `(B, K, channels)`, without the channels that are dropped there."""
        kept = self.dropout(like.new_ones(like.shape[0], like.shape[1], 1, 1))
        return self.classifier.weight[:, :, 0, 0] * kept[:, None, :, 0, 0]


def _classified(maps: Tensor, weight: Tensor) -> Tensor:
    """`(B, C, h, w)` by `(B, K, C)` -> `(B, K, h, w)`."""
    return torch.einsum("bchw,bkc->bkhw", maps, weight)


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
