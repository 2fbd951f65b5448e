"""Slow oracle of patch-text maps, in float64, head by head, by OpenAI's names.

Written from the formulas of Yang et al. (ExCEL, CVPR 2025), Li et al. (CLIP Surgery, 2023) and Wang et al. (SCLIP, ECCV
2024); refinement is that of CLIP-ES (`oracle_clip_es.py`).
"""

from __future__ import annotations

import oracle_clip as clip
import oracle_clip_es as clip_es
import torch
from oracle_clip import State
from torch import Tensor

ALIKE = {"qq": ["q"], "kk": ["k"], "vv": ["v"], "mean": ["q", "k", "v"]}


def random_state(*, width: int, layers: int, patch: int, side: int, embed_dim: int) -> dict[str, Tensor]:
    """A CLIP of both towers; heads have 64 channels."""
    state = clip.random_image_tower("visual.", width, layers, patch=patch, side=side, embed_dim=embed_dim)
    state |= clip.random_text_tower("", 64, 1, context_length=16, vocabulary=514, embed_dim=embed_dim)
    return state | {"logit_scale": torch.tensor(2.0)}


def second_path(normed: Tensor, state: State, name: str, heads: int, kind: str) -> Tensor:
    """`out_proj(A v)` of the block `name`, from `(B, N, D)`."""
    joint = normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
    parts = dict(zip("qkv", joint.chunk(3, dim=-1), strict=True))
    if kind == "value":
        mixed = parts["v"]
    elif kind == "own":
        mixed = clip.attend(parts["q"], parts["k"], parts["v"], heads)[0]
    else:
        each = [clip.attend(parts[letter], parts[letter], parts["v"], heads)[0] for letter in ALIKE[kind]]
        mixed = torch.stack(each).mean(dim=0)
    return clip.linear(mixed, state, f"{name}.attn.out_proj")


def maps(
    pixels: Tensor, state: State, texts: tuple[Tensor, Tensor], *, layers: int, kind: str, attention_layers: int
) -> tuple[Tensor, Tensor]:
    """Scores of the classes `(n, h, w)`, from 0 to 1 each, and the attention between patches, of one image.

    Args:
        pixels: `(1, 3, H, W)`, normalised.
        state: by OpenAI's names.
        texts: of the classes `(n, E)`, and of the background `(m, E)`.
        layers: blocks that are summed.
        kind: of the attention.
        attention_layers: whose attention is averaged.
    """
    patches, grid = clip.embed_patches(pixels, state["visual.conv1.weight"])
    table = state["visual.positional_embedding"]
    positions = torch.cat([table[:1], clip.resized_positions(table[1:], grid, "bicubic")])
    first = state["visual.class_embedding"].expand(1, 1, -1)
    x = clip.layer_norm(torch.cat([first, patches], dim=1) + positions, state, "visual.ln_pre")
    heads = x.shape[-1] // 64
    paths, attentions = [], []
    while f"visual.transformer.resblocks.{len(paths)}.ln_1.weight" in state:
        name = f"visual.transformer.resblocks.{len(paths)}"
        normed = clip.layer_norm(x, state, f"{name}.ln_1")
        paths.append(second_path(normed, state, name, heads, kind))
        x, weights = clip.block(x, normed, state, name, heads, causal=False)
        attentions.append(weights.mean(dim=0)[0, 1:, 1:])
    total = torch.stack(paths[-layers:]).sum(dim=0)
    tokens = (clip.layer_norm(total, state, "visual.ln_post") @ state["visual.proj"])[0, 1:]
    unit = [each / each.norm(dim=-1, keepdim=True) for each in (tokens, torch.cat(texts))]
    probabilities = (state["logit_scale"].exp() * unit[0] @ unit[1].T).softmax(dim=-1)
    own = [clip_es.stretched(column.reshape(grid)) for column in probabilities.T[: len(texts[0])]]
    return torch.stack(own), torch.stack(attentions[-attention_layers:]).mean(dim=0)


def refined(scores: Tensor, attention: Tensor, box_threshold: float) -> Tensor:
    """Maps `(n, h, w)` after the refinement, from 0 to 1 each."""
    spread = [clip_es.refined(own, clip_es.boxes(own, box_threshold), attention) for own in scores]
    return torch.stack([clip_es.stretched(own) for own in spread])
