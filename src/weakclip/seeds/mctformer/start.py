"""An MCTformer+ that starts from the image tower of a CLIP, where no DeiT is at hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.clip import FrozenCLIP
from weakclip.errors import WeightsError
from weakclip.seeds.mctformer.model import MCTformer

_TOKEN_SPREAD = 0.5
"""How far the class tokens start from CLIP's one, in its own deviations: equal tokens would stay equal for long."""


@torch.no_grad()
def start_from_clip(model: MCTformer, clip: FrozenCLIP, images: Tensor) -> None:
    """Fill a fresh MCTformer+ with a CLIP's image tower; class tokens start near CLIP's one, the maps' head is random.

    The layers are CLIP's own. CLIP's norm before the first layer, which an MCTformer+ has not, goes into the patch
    embedding and the positions with the mean deviation that `images` show, so that the start is near CLIP, not equal.

    Args:
        model: of CLIP's patch size, width, depth and heads.
        clip: the CLIP; with quick GELU (OpenAI's) the start is a little further off.
        images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1, a few of the training images.

    Raises:
        WeightsError: an MCTformer+ of other numbers, or an encoder of another layout.
    """
    if not hasattr(clip.model.vision_model, "pre_layrnorm"):
        raise WeightsError(
            f"{clip.source}: an MCTformer+ starts from an image tower of CLIP's layout; found {clip.family}"
        )
    blocks: list[Any] = list(clip.blocks)
    own = (model.patch_size, model.cls_token.shape[-1], len(model.blocks), model.heads)
    theirs = (clip.patch_size, clip.vision_width, len(blocks), blocks[0].self_attn.num_heads)
    if own != theirs:
        raise WeightsError(
            f"{clip.source}: an MCTformer+ that starts from it needs patch_size, width, depth and heads of "
            f"{', '.join(map(str, theirs))}; found {', '.join(map(str, own))}"
        )
    if blocks[0].mlp.fc1.out_features != 4 * clip.vision_width:
        raise WeightsError(f"{clip.source}: expected layers whose MLP is 4 times as wide as the tower, as DeiT's are")
    _fill_embedding(model, clip, images.to(clip.device))
    for block, source in zip(model.blocks, blocks, strict=True):
        _fill_block(block, source)


def _fill_embedding(model: MCTformer, clip: FrozenCLIP, images: Tensor) -> None:
    """Patch embedding, positions and class tokens; CLIP's pixel statistics are turned into the model's."""
    tower = clip.model.vision_model
    norm, kernel = tower.pre_layrnorm, tower.embeddings.patch_embedding.weight.cpu()
    patches = tower.embeddings.patch_embedding(clip.normalize(images))
    positions = clip.positions((patches.shape[2], patches.shape[3]))
    spread = (patches.flatten(2).transpose(1, 2) + positions[1:]).std(dim=-1).mean()
    gain = (norm.weight / spread).cpu()
    mean, std = clip.pixel_mean.cpu(), clip.pixel_std.cpu()
    shift = (kernel * ((model.pixel_mean[0].cpu() - mean) / std)).sum(dim=(1, 2, 3))
    projection: Any = model.patch_embed[0]
    projection.weight.copy_(_centred(kernel * (model.pixel_std[0].cpu() / std)) * gain[:, None, None, None])
    projection.bias.copy_(_centred(shift) * gain + norm.bias.cpu())
    table = clip.positions((clip.image_size // clip.patch_size,) * 2).cpu()
    square = (_centred(table[1:].T) * gain[:, None]).unflatten(1, (-1, clip.image_size // clip.patch_size))
    resized = F.interpolate(square[None], size=(model.side, model.side), mode="bicubic", align_corners=False)
    model.pos_embed_pat.copy_(resized.flatten(2).transpose(1, 2))
    token = norm(tower.embeddings.class_embedding + positions[0]).cpu()
    model.cls_token.copy_(token + _TOKEN_SPREAD * token.std() * torch.randn_like(model.cls_token))


def _centred(values: Tensor) -> Tensor:
    """Less the mean over the channels, as a layer norm does; channels come first."""
    return values - values.mean(dim=0, keepdim=True)


def _fill_block(block: Any, source: Any) -> None:
    attention = source.self_attn
    for kind in ("weight", "bias"):
        joint = torch.cat([getattr(getattr(attention, f"{part}_proj"), kind) for part in "qkv"])
        getattr(block.attn.qkv, kind).copy_(joint)
    pairs = (
        (block.norm1, source.layer_norm1),
        (block.norm2, source.layer_norm2),
        (block.attn.proj, attention.out_proj),
        (block.mlp.fc1, source.mlp.fc1),
        (block.mlp.fc2, source.mlp.fc2),
    )
    for own, theirs in pairs:
        own.load_state_dict(theirs.state_dict())
