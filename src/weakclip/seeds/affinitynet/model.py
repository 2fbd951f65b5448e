"""AffinityNet: which pixels nearby belong together, learned from image-level labels.

Three levels of a ResNet38 are reduced, joined and projected to one feature vector a pixel of the stride-8 grid. The
affinity of two pixels is `exp(−mean_c |f_i,c − f_j,c|)`, asked for all pairs that lie less than a radius apart.

References:
    Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
    Segmentation", CVPR 2018, and its released code (widths and first weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.clip.hub_files import IMAGENET_MEAN, IMAGENET_STD
from weakclip.errors import ConfigError
from weakclip.segmenters.resnet38 import PUBLISHED_WIDTHS, ResNet38, check_counts, check_widths

RADIUS = 5
"""Distance, in steps of the grid, below which pairs of pixels have an affinity."""

PUBLISHED_REDUCTIONS = (64, 128, 256)
"""Channels that the three levels are reduced to; 448 together."""

_FROZEN = ("conv1a", "b2", "b2_1", "b2_2")  # of the released code, whose trunk was trained on ImageNet


def check_numbers(widths: Sequence[int], reductions: Sequence[int], radius: int) -> None:
    """Raise a `ConfigError` unless an AffinityNet can be built with these numbers."""
    check_widths(widths)
    check_counts("reductions", reductions, 3)
    if type(radius) is not int or radius < 2:
        raise ConfigError(f"radius: a whole number of 2 and more expected; found {radius!r}")


class AffinityNet(nn.Module):
    """AffinityNet on a ResNet38.

    Args:
        widths: of the trunk, see `ResNet38`.
        reductions: channels that conv4, conv5 and conv6 are reduced to; their sum is the width of a pixel's feature.
        radius: see `RADIUS`; above 1.
        frozen: whether all norms of the trunk and its weights up to stage b2 stay as they are, as the released code
            has it for a trunk that was trained on ImageNet.

    Raises:
        ConfigError: numbers that no AffinityNet has.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        widths: Sequence[int] = PUBLISHED_WIDTHS,
        reductions: Sequence[int] = PUBLISHED_REDUCTIONS,
        radius: int = RADIUS,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        check_numbers(widths, reductions, radius)
        self.reductions, self.radius = tuple(reductions), radius
        self.trunk = ResNet38(widths, frozen_norms=frozen, frozen=_FROZEN if frozen else ())
        self.f8_3 = nn.Conv2d(widths[3], reductions[0], 1, bias=False)
        self.f8_4 = nn.Conv2d(widths[4], reductions[1], 1, bias=False)
        self.f8_5 = nn.Conv2d(widths[6], reductions[2], 1, bias=False)
        self.f9 = nn.Conv2d(sum(reductions), sum(reductions), 1, bias=False)
        for layer in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        for name, value in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Affinities of the pairs of pixels on the stride-8 grid.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1.

        Returns:
            `(B, P, ⌈H/8⌉, ⌈W/8⌉)` float32, as of `pairwise_affinity`.
        """
        return pairwise_affinity(self.features(images).float(), self.radius)

    def features(self, images: Tensor) -> Tensor:
        """One feature vector a pixel of the grid, `(B, Σ reductions, ⌈H/8⌉, ⌈W/8⌉)`; arguments as in `forward`."""
        pixels = images if images.is_floating_point() else images.float() / 255
        levels = self.trunk((pixels - self.pixel_mean) / self.pixel_std)
        layers = (self.f8_3, self.f8_4, self.f8_5)
        reduced = [F.elu(layer(level)) for layer, level in zip(layers, levels, strict=True)]
        return F.elu(self.f9(torch.cat(reduced, dim=1)))


def pair_offsets(radius: int) -> list[tuple[int, int]]:
    """Steps `(dy, dx)` from a pixel to the others of its pairs: each pair of pixels once, none with itself.

    >>> pair_offsets(2)
    [(0, 1), (1, -1), (1, 0), (1, 1)]
    >>> len(pair_offsets(5))
    34
    """
    reach = range(1 - radius, radius)
    steps = [(dy, dx) for dy in range(radius) for dx in reach if dy * dy + dx * dx < radius * radius]
    return [(dy, dx) for dy, dx in steps if dy > 0 or dx > 0]


def shifted(maps: Tensor, radius: int, fill: float) -> list[Tensor]:
    """For each step of `pair_offsets`, the maps as seen from the pixel that the step starts at.

    Args:
        maps: `(…, C, h, w)`.
        radius: as in `pair_offsets`.
        fill: what stands beyond the border.

    Returns:
        Tensors of the shape of `maps`; entry `y, x` of the one for `(dy, dx)` is `maps[…, y + dy, x + dx]`.
    """
    height, width = maps.shape[-2:]
    reach = radius - 1
    padded = F.pad(maps, (reach, reach, 0, reach), value=fill)
    return [padded[..., dy : dy + height, reach + dx : reach + dx + width] for dy, dx in pair_offsets(radius)]


def pairwise_affinity(features: Tensor, radius: int) -> Tensor:
    """`exp(−mean_c |f_i,c − f_j,c|)` for the pairs of pixels less than `radius` apart.

    Args:
        features: `(B, C, h, w)` float.
        radius: in steps of the grid.

    Returns:
        `(B, P, h, w)`, 0…1: entry `p, y, x` is that of pixel `y, x` and the one `pair_offsets(radius)[p]` away; 0 where
        that one lies beyond the border.

    >>> features = torch.tensor([[[[0.0, 1.0]]]])
    >>> [round(value, 3) for value in pairwise_affinity(features, 2).flatten().tolist()][:2]
    [0.368, 0.0]
    """
    others = shifted(features, radius, 0.0)
    affinity = torch.stack([(-(other - features).abs().mean(dim=1)).exp() for other in others], dim=1)
    inside = torch.stack(shifted(torch.ones_like(features[:1, 0]), radius, 0.0), dim=1)
    return affinity * inside
