"""The frozen image tower, layer by layer: patches of any grid in, block outputs and attention out.

The functions work on the parts of a `transformers.CLIPModel` by attribute paths, so that one pass gives everything:
tapped layers, projected tokens and, where asked for, attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PositionInterpolation = Literal["bicubic", "bilinear"]
PartialPatches = Literal["resized", "cut"]


def default_tap_layers(depth: int) -> tuple[int, ...]:
    """Layers at 1/3, 1/2, 2/3 and the whole of the depth, counted from 1.

    >>> default_tap_layers(12)
    (4, 6, 8, 12)
    """
    return tuple(max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1))


def resize_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Bring height and width up to the next multiple of the patch, bilinearly; multiples pass untouched.

    Args:
        images: `(B, 3, H, W)` float.
        patch_size: side of a patch in pixels.
    """
    height, width = ((side + patch_size - 1) // patch_size * patch_size for side in images.shape[-2:])
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)


def resizing_note(name: str, side: int, patch_size: int) -> str:
    """A line on a side of images that is no whole number of patches; empty where it is one.

    >>> resizing_note("augment.crop_size", 512, 14)
    'augment.crop_size: 512 is no whole number of patches of 14 pixels; 504 or 518 needs no resizing'
    """
    lower = side // patch_size * patch_size
    if lower == side:
        return ""
    fitting = f"{lower} or {lower + patch_size}" if lower else str(patch_size)
    return f"{name}: {side} is no whole number of patches of {patch_size} pixels; {fitting} needs no resizing"


def cut_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Leave out the pixels beyond the last whole patch; a side shorter than one patch is resized up to it.

    Args:
        images: `(B, 3, H, W)` float.
        patch_size: side of a patch in pixels.
    """
    if min(images.shape[-2:]) < patch_size:
        return resize_to_patches(images, patch_size)
    height, width = (side // patch_size * patch_size for side in images.shape[-2:])
    return images[..., :height, :width]


def interpolate_positions(
    table: Tensor, grid: tuple[int, int], mode: PositionInterpolation, *, prefix: int = 1, antialias: bool = False
) -> Tensor:
    """Position embeddings for any patch grid; the rows of other tokens are kept.

    Args:
        table: `(prefix+n², D)`, learned on a square grid, the other tokens first.
        grid: `(h, w)` wanted.
        mode: bicubic as in `transformers`, or bilinear.
        prefix: how many rows stand before those of the patches: 1 for a class token.
        antialias: whether a smaller grid averages the positions that it leaves out.

    Returns:
        `(prefix+hw, D)`.
    """
    side = round((table.shape[0] - prefix) ** 0.5)
    if grid == (side, side):
        return table
    square = table[prefix:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square, size=grid, mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([table[:prefix], resized.flatten(2)[0].T])


def embed_patches(tower: Any, pixels: Tensor, positions: Tensor) -> Tensor:
    """Input of the first block: patches and the class token, positions added, first norm applied.

    Args:
        tower: `CLIPModel.vision_model`.
        pixels: `(B, 3, H, W)` normalised, sides multiples of the patch.
        positions: `(1+hw, D)`.

    Returns:
        `(B, 1+hw, D)`.
    """
    embeddings = tower.embeddings
    patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    class_token = embeddings.class_embedding.expand(len(pixels), 1, -1)
    tokens: Tensor = tower.pre_layrnorm(torch.cat([class_token, patches], dim=1) + positions)
    return tokens


def run_blocks(blocks: Sequence[nn.Module], hidden: Tensor) -> list[Tensor]:
    """Outputs of consecutive blocks, each `(B, 1+hw, D)`."""
    outputs = []
    for block in blocks:
        hidden = block(hidden, None)
        outputs.append(hidden)
    return outputs


def attend(block: Any, hidden: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """One block with its attention laid open: what `block(hidden)` computes, and the weights that it hides.

    Args:
        block: a `CLIPEncoderLayer`.
        hidden: `(B, N, D)`, the block's input.
        normed: `(B, N, D)`, the input after the block's first norm; Grad-CAM differentiates with respect to it.

    Returns:
        The output `(B, N, D)`, and the attention `(B, N, N)` averaged over the heads, rows summing to 1.
    """
    queries, keys, values = queries_keys_values(block, normed)
    weights = ((queries * block.self_attn.scale) @ keys.transpose(-1, -2)).softmax(dim=-1)
    hidden = hidden + attention_output(block, weights @ values)
    return hidden + block.mlp(block.layer_norm2(hidden)), weights.mean(dim=1)


def queries_keys_values(block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a `CLIPEncoderLayer`: each `(B, heads, N, d)`, queries not scaled."""
    attention = block.self_attn

    def heads(projection: nn.Module) -> Tensor:
        projected: Tensor = projection(normed)
        return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    return heads(attention.q_proj), heads(attention.k_proj), heads(attention.v_proj)


def attention_output(block: Any, mixed: Tensor) -> Tensor:
    """Mixed values `(B, heads, N, d)` through the output projection of a `CLIPEncoderLayer`: `(B, N, D)`."""
    projected: Tensor = block.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


def to_map(hidden: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Patch tokens as a map: `(B, prefix+hw, D)` to `(B, D, h, w)`; the first `prefix` tokens are left out."""
    return hidden[:, prefix:].transpose(1, 2).unflatten(2, grid)
