"""Seeds from a trained MCTformer+: class-to-patch attention fused with class maps, spread by patch-to-patch attention.

References:
    Xu et al., "MCTformer+: Multi-Class Token Transformer for Weakly Supervised Semantic Segmentation", 2023
    (arXiv:2308.03005), and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeightsError
from weakclip.inference.windows import BatchLimit
from weakclip.seeds.base import CAM
from weakclip.seeds.mctformer.model import Localization, MCTformer
from weakclip.store.ranges import SCALES, check_range

_BACKGROUND_POWER = 1.9
"""`(1 - x)^1.9 = x` at 0.39, the constant score that the released code gives the background (psa/infer_aff.py)."""

_EPSILON = 1e-8  # as in the released code; keeps a map without response at 0


@dataclass(frozen=True, kw_only=True)
class MCTformerCAMSettings:
    """How `MCTformerCAM` makes its maps; the defaults are those of the released code.

    Args:
        scales: factors on the image's sides, 0.1…100; the maps of all of them, and of the mirrored images, are summed.
        attention_layers: how many of the last layers' class-to-patch attentions are averaged; 12 are all of DeiT-S.

    Raises:
        ConfigError: a number out of range.
    """

    scales: tuple[float, ...] = (1.0, 0.75, 1.25)
    attention_layers: int = 12

    def __post_init__(self) -> None:
        check_range(self, "scales", **SCALES)
        check_range(self, "attention_layers", least=1)


class MCTformerCAM:
    """Class activation maps of an MCTformer+ for the classes among an image's labels.

    Args:
        model: trained, in evaluation mode; images go to its device.
        class_set: the classes that it was trained for.
        settings: see `MCTformerCAMSettings`.

    Raises:
        WeightsError: a model of another number of classes.
    """

    def __init__(self, model: MCTformer, class_set: ClassSet, settings: MCTformerCAMSettings | None = None) -> None:
        if model.num_classes != class_set.num_classes:
            found, expected = model.num_classes - 1, class_set.num_classes - 1
            raise WeightsError(f"an MCTformer+ of {found} classes for a data set of {expected}; train or name another")
        self.model = model
        self.settings = settings or MCTformerCAMSettings()
        self._limit = BatchLimit()

    def _localize(self, images: Tensor) -> Localization:
        return self.model.localize(images, attention_layers=self.settings.attention_layers)

    def cam(self, sample: Sample) -> CAM:
        """Refined maps of the sample's classes at the size of its image, each from 0 to 1.

        Args:
            sample: image `(H, W, 3)` uint8 and its labels.

        Returns:
            `CAM` with maps `(n, H, W)` float32; none for a sample without labels.
        """
        size = sample.image.shape[:2]
        if not sample.labels:
            return CAM(classes=(), maps=np.zeros((0, *size), dtype=np.float32))
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(self.model.pixel_mean.device) / 255
        indices = [label - 1 for label in sample.labels]
        total = torch.zeros(len(indices), *size, device=image.device)
        for scale in self.settings.scales:
            resized = _to_patches(image, scale, self.model.patch_size)
            both = torch.cat([resized, resized.flip(-1)])
            found = self._limit.run(self._localize, both)
            maps = torch.cat([refine(part.maps[:, indices], part.affinity) for part in found])
            whole = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
            total += whole[0] + whole[1].flip(-1)
        total -= total.amin(dim=(1, 2), keepdim=True)
        total /= total.amax(dim=(1, 2), keepdim=True) + _EPSILON
        classes, values = tuple(sample.labels), total.cpu().numpy()
        return CAM(classes=classes, maps=values, background_power=_BACKGROUND_POWER)


def refine(maps: Tensor, affinity: Tensor) -> Tensor:
    """Each patch takes the responses of the patches that it attends to: `affinity · map`.

    Args:
        maps: `(B, n, h, w)`.
        affinity: `(B, hw, hw)`; row i holds what patch i attends to.

    Returns:
        `(B, n, h, w)`.
    """
    return (maps.flatten(2) @ affinity.transpose(1, 2)).view_as(maps)


def _to_patches(image: Tensor, scale: float, patch_size: int) -> Tensor:
    """The image at a scale, its sides brought to the nearest whole number of patches."""
    size = [max(1, round(side * scale / patch_size)) * patch_size for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
