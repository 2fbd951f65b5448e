"""Outlier tokens: patches of an image tower whose norm is far above that of the others.

Large image towers (ViT-L and up, CLIP's and DINOv2's among them) use a few patches with little in them to keep notes on
the whole image. Such a patch says nothing about its place and wins every map. It is found by its norm and filled with
the mean of its neighbours that are none.

References:
    Darcet et al., "Vision Transformers Need Registers", ICLR 2024: where they come from and how they are told by norm.
    Bai et al., "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation" (SC-CLIP), 2024: filling them by
    their neighbours.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

FAR = 3.0
"""How many times the median norm is far."""


def fill_outliers(hidden: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Hidden states whose outlier patches are the mean of those around them; untouched where there is none.

    Args:
        hidden: `(B, prefix+hw, D)` float.
        grid: `(h, w)`.
        prefix: how many tokens stand before the patches; they are left as they are.

    Returns:
        `(B, prefix+hw, D)`; the very tensor where no patch is an outlier.
    """
    norms = hidden[:, prefix:].norm(dim=-1)
    odd = norms > FAR * norms.median(dim=1, keepdim=True).values
    if not odd.any():
        return hidden
    maps = hidden[:, prefix:].transpose(1, 2).unflatten(2, grid)
    sound = (~odd).to(hidden.dtype).unflatten(1, grid)[:, None]
    while not sound.all():  # from the edge of a group inwards; half of the patches or more are sound
        near = F.avg_pool2d(sound, 3, stride=1, padding=1)
        means = F.avg_pool2d(maps * sound, 3, stride=1, padding=1) / near.clamp(min=1 / 9)
        maps = maps.where(sound > 0, means)
        sound = (near > 0).to(sound.dtype)
    filled = hidden.clone()
    filled[:, prefix:] = maps.flatten(2).transpose(1, 2)
    return filled
