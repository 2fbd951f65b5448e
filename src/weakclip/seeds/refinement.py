"""Parts that the maps of a frozen CLIP share: the input image, and the refinement by CLIP's own attention.

The attention of the last layers, made a symmetric doubly stochastic affinity, spreads each map from boxes of strong
response.

References:
    Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven Approach for Weakly Supervised Semantic
    Segmentation" (CLIP-ES), CVPR 2023, and its released code.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.datasets import Sample
from weakclip.seeds.base import CAM
from weakclip.seeds.boxes import box_mask

_EPSILON = 1e-7  # as in CLIP-ES; keeps a map without response at 0


def image_tensor(sample: Sample, scale: float, device: torch.device) -> Tensor:
    """A sample's image as a batch of one, its sides times `scale`; an image that would have no pixel left keeps its
    size.

    Args:
        sample: image `(H, W, 3)` uint8.
        scale: factor on the sides, above 0.
        device: where the tensor is made.

    Returns:
        `(1, 3, h, w)`, uint8 0…255 at scale 1 and float 0…1 at any other.
    """
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device)
    if scale == 1 or min(image.shape[-2:]) * scale < 1:
        return image
    return F.interpolate(image.float() / 255, scale_factor=scale, mode="bilinear", antialias=True)


def no_cam(sample: Sample) -> CAM:
    """The maps of a sample without labels: none."""
    return CAM(classes=(), maps=np.zeros((0, *sample.image.shape[:2]), dtype=np.float32))


def refined_cam(sample: Sample, maps: Tensor, attention: Tensor | None, box_threshold: float) -> CAM:
    """Maps of the patch grid, refined, and brought to the image's size.

    Args:
        sample: has as many labels as there are maps.
        maps: `(n, h, w)`, 0…1.
        attention: `(hw, hw)`; None leaves the maps as they are.
        box_threshold: see `refine`.

    Returns:
        `CAM` with maps `(n, H, W)` float32, 0…1.
    """
    refined = maps if attention is None else refine(maps, attention, box_threshold)
    return image_cam(sample, stretch(refined))


def image_cam(sample: Sample, maps: Tensor, *, background_power: float = 1.0) -> CAM:
    """Maps of the patch grid at the image's size.

    Args:
        sample: has as many labels as there are maps.
        maps: `(n, h, w)`, 0…1.
        background_power: see `CAM`.
    """
    size = sample.image.shape[:2]
    whole = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    classes, values = tuple(sample.labels), whole.float().cpu().numpy()
    return CAM(classes=classes, maps=values, background_power=background_power)


def affinity(attention: Tensor) -> Tensor:
    """Attention as a symmetric, nearly doubly stochastic transition matrix (Sinkhorn: columns and rows in turn).

    Args:
        attention: `(N, N)`, positive.

    Returns:
        `(N, N)`.
    """
    for _ in range(3):
        attention = attention / attention.sum(dim=0, keepdim=True)
        attention = attention / attention.sum(dim=1, keepdim=True)
    return (attention + attention.T) / 2


def refine(maps: Tensor, attention: Tensor, box_threshold: float) -> Tensor:
    """Spread each map by two steps of the attention affinity, from inside its boxes of strong response.

    Args:
        maps: `(n, h, w)`, 0…1.
        attention: `(hw, hw)`.
        box_threshold: share of a map's maximum, 0…1, above which a response is strong.

    Returns:
        `(n, h, w)`, not stretched.
    """
    boxes = np.stack([box_mask(scores, box_threshold) for scores in maps.float().cpu().numpy()])
    inside = torch.from_numpy(boxes).to(maps.device) * maps
    steps = affinity(attention)
    spread = steps @ (steps @ inside.flatten(1).T)
    return spread.T.reshape(maps.shape)


def stretch(maps: Tensor) -> Tensor:
    """Each map `(n, h, w)` from 0 to 1."""
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + _EPSILON)
