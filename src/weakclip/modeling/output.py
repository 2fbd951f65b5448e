"""The output of WeakCLIP, and its two predictions mixed into one."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.modeling.co_attention import MATCH_TEMPERATURE


class WeakCLIPOutput(NamedTuple):
    """The output of WeakCLIP for a batch of images.

    Args:
        logits: `(B, K, 4h, 4w)` float, stride 4 where patches have 16 pixels.
        match_map: `(B, K, h, w)` float32, cosine similarity of each patch with each class, -1...1.
        class_embeddings: `(B, K, E)` float, the class embeddings as matched with each image.
    """

    logits: torch.Tensor
    match_map: torch.Tensor
    class_embeddings: torch.Tensor


def mixed_logits(output: WeakCLIPOutput, match_share: float) -> Tensor:
    """The decoder's prediction and the match map as one, for masks of images whose classes are known.

    `log((1 - s) softmax(logits) + s softmax(match_map / 0.07))`. The decoder has weights of its own for every class,
    which few images teach a rare class; the match map holds all classes against the pixels in one way.

    Args:
        output: of the model.
        match_share: `s`, 0...1.

    Returns:
        `(B, K, 4h, 4w)` float: logits of the mixed probabilities; the decoder's own logits where `s` is 0.
    """
    if match_share == 0:
        return output.logits
    size = output.logits.shape[2:]
    matched = F.interpolate(output.match_map.float() / MATCH_TEMPERATURE, size=size, mode="bilinear")
    mixed = (1 - match_share) * output.logits.float().softmax(dim=1) + match_share * matched.softmax(dim=1)
    return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()
