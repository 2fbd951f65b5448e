"""The sum that a block of an image tower would add if its tokens attended to others than it was trained for."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.clip import BlockEncoder

SelfAttention = Literal["mean", "qq", "kk", "vv", "own", "value"]
"""Which weights the values are mixed with: see `self_attention`."""


def self_attention(clip: BlockEncoder, block: nn.Module, normed: Tensor, kind: SelfAttention) -> Tensor:
    """The sum that a block's attention would add with other weights: `out_proj(A v)`, without residual or MLP.

    `A` is `softmax(q qᵀ/√d)`, `softmax(k kᵀ/√d)` or `softmax(v vᵀ/√d)` of each head: tokens that are alike attend to
    each other. `mean` is the mean of the three, `own` the block's attention as it was trained, `softmax(q kᵀ/√d)`, and
    `value` the identity. No matrix of all pairs is kept.

    Args:
        clip: the CLIP.
        block: of its image tower.
        normed: `(B, N, D)`, the block's input after its first norm.
        kind: which `A`.

    Returns:
        `(B, N, D)`.

    References:
        Wang et al. (SCLIP) for `qq` and `kk`, Li et al. (CLIP Surgery) for `vv`, Yang et al. (ExCEL) for `mean`.
    """
    queries, keys, values = clip.queries_keys_values(block, normed)
    pairs = {"qq": [(queries, queries)], "kk": [(keys, keys)], "vv": [(values, values)], "own": [(queries, keys)]}
    pairs["mean"] = pairs["qq"] + pairs["kk"] + pairs["vv"]
    if kind == "value":
        return clip.attention_output(block, values)
    mixed = [F.scaled_dot_product_attention(one, other, values) for one, other in pairs[kind]]
    return clip.attention_output(block, torch.stack(mixed).mean(dim=0))
