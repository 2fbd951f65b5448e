"""Replacements for parts of WeakCLIP that are left out: the same input and output, and nothing learned.

`weakclip study parts` composes models of them, to find out what the part is worth. For the learnable prompt no
stand-in is needed: a `LearnablePrompt` of length 0 reads the plain class words.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from weakclip.modeling.decoder import FeaturePyramid, SemanticHead
from weakclip.modeling.pyramid_adapter import UndoubledLevel, doublings, pooled


class ResizedPyramid(nn.Module):
    """In place of `PyramidAdapter`: the same four layers, normalised and resized, without a single weight.

    Each map is normalised over its channels and pixels, as the adapter's group norm does but without learned scale and
    shift; bilinear resizing stands for the transposed convolutions, and the fourth map is max-pooled as there.

    Args:
        scales: side of each map in sides of the patch grid, powers of two.
    """

    def __init__(self, scales: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.doublings = doublings(scales)

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Build the pyramid.

        Args:
            layers: four maps `(B, D_i, h, w)` float, from the lowest layer to the highest.

        Returns:
            `(B, D_1, 4h, 4w)`, `(B, D_2, 2h, 2w)`, `(B, D_3, h, w)`, `(B, D_4, h // 2, w // 2)`; a side of one patch
            stays one.
        """
        first, second, third, fourth = self.levels(layers)
        return first, second, third, fourth

    def levels(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """As `forward`: nothing here can be put off."""
        normed = (functional.group_norm(layer.contiguous(), 1) for layer in layers)
        return [_resized(each, count) for each, count in zip(normed, self.doublings, strict=True)]


def _resized(maps: Tensor, count: int) -> Tensor:
    """`maps` doubled `count` times; halved where that is below 0."""
    if count <= 0:
        return pooled(maps, -count) if count else maps
    return functional.interpolate(maps, scale_factor=2**count, mode="bilinear", align_corners=False)


class PlainMatching(nn.Module):
    """In place of `CoAttention`: class and pixel embeddings are compared as CLIP gives them."""

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat the classes for every image, and change nothing.

        Args:
            text: `(K, E)` float.
            image: `(B, N, E)` float.

        Returns:
            `(B, K, E)`, and `image`.
        """
        return text.expand(image.shape[0], -1, -1), image


class UnguidedDecoder(nn.Module):
    """In place of `TextGuidedDecoder`: the same feature pyramid and head, on the pyramid only.

    Args:
        in_channels: `D`, channels of the pyramid, or those of each of its four levels.
        num_classes: `K`, with the background.
        channels: width of the decoder.
        dropout: of whole channels before the classifier, 0...1.
    """

    def __init__(
        self, in_channels: int | Sequence[int], num_classes: int, *, channels: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.feature_pyramid = FeaturePyramid(in_channels, channels)
        self.head = SemanticHead(channels, num_classes, dropout=dropout)

    def forward(self, pyramid: Sequence[Tensor | UndoubledLevel], match_map: Tensor) -> Tensor:
        """As `TextGuidedDecoder`, without a look at the match map."""
        return self.head(self.feature_pyramid(pyramid))
