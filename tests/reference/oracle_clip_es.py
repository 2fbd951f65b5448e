"""Slow oracle of the released CLIP-ES, in float64, and a maker of folders in the fixtures' layout at any size.

Written from Lin et al. (CVPR 2023) and from github.com/linyq2117/CLIP-ES (generate_cams_voc12.py, clip/model.py,
utils.py). There patches have 16 pixels and heads 64 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import oracle_clip as clip
import torch
from oracle_clip import State
from parity_cases import write_case
from safetensors.torch import save_file
from torch import Tensor

PATCH = 16


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that may differ from case to case."""

    image_size: tuple[int, int] = (64, 96)
    width: int = 64
    layers: int = 3
    grid: int = 3
    embed_dim: int = 24
    foreground: int = 2
    background: int = 5
    box_threshold: float = 0.4
    attention_layers: int = 8
    stored: torch.dtype = torch.float32


def trunk(pixels: Tensor, state: State, positions: Tensor, heads: int) -> tuple[Tensor, list[Tensor]]:
    """Input of the last layer, and the attentions of those before it, averaged over the heads."""
    patches, _ = clip.embed_patches(pixels, state["visual.conv1.weight"])
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = clip.layer_norm(torch.cat([first, patches], dim=1) + positions, state, "visual.ln_pre")
    attentions = []
    while f"visual.transformer.resblocks.{len(attentions) + 1}.ln_1.weight" in state:
        name = f"visual.transformer.resblocks.{len(attentions)}"
        x, weights = clip.block(x, clip.layer_norm(x, state, f"{name}.ln_1"), state, name, heads, causal=False)
        attentions.append(weights.mean(dim=0)[0])
    return x, attentions


def stretched(scores: Tensor) -> Tensor:
    """From 0 to 1."""
    scores = scores - scores.min()
    return scores / (1e-7 + scores.max())


def class_maps(
    pixels: Tensor, state: State, positions: Tensor, heads: int, texts: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Scores of all texts, Grad-CAM `(n, h, w)` of the first ones, and the attentions of all layers."""
    x, attentions = trunk(pixels, state, positions, heads)
    name = f"visual.transformer.resblocks.{len(attentions)}"
    height, width = (side // PATCH for side in pixels.shape[-2:])
    maps = []
    for label in range(len(texts[0])):
        normed = clip.layer_norm(x, state, f"{name}.ln_1").requires_grad_()
        output, weights = clip.block(x, normed, state, name, heads, causal=False)
        image = clip.layer_norm(output, state, "visual.ln_post")[:, 1:].mean(dim=1) @ state["visual.proj"]
        similarity = (
            torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(torch.cat(texts), dim=-1).T
        )
        scores = (state["logit_scale"].exp() * similarity).softmax(dim=-1)
        (gradient,) = torch.autograd.grad(scores[0, label], normed)
        channel = gradient[0, 1:].mean(dim=0)
        maps.append(stretched(stretched((normed.detach()[0, 1:] @ channel).clamp_min(0).reshape(height, width))))
    return scores.detach(), torch.stack(maps), [*attentions, weights.detach().mean(dim=0)[0]]


def boxes(scores: Tensor, threshold: float) -> Tensor:
    """`(h, w)` of 0 and 1: boxes of the parts above a share of the maximum; the last row and column are cut."""
    height, width = scores.shape
    steps = [[int(float(value) * 255) for value in row] for row in scores.float()]
    least = int(threshold * max(map(max, steps)))
    part_of = {(y, x): (y, x) for y in range(height) for x in range(width) if steps[y][x] > least}
    changed = True
    while changed:  # the smallest pixel of a part spreads over all of it
        changed = False
        for (y, x), own in list(part_of.items()):
            near = [(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            smallest = min(part_of[pixel] for pixel in near if pixel in part_of)
            changed |= smallest != own
            part_of[y, x] = smallest
    mask = torch.zeros(height, width)
    for part in set(part_of.values()):
        rows, columns = zip(*[pixel for pixel, own in part_of.items() if own == part], strict=True)
        mask[min(rows) : min(max(rows) + 1, height - 1), min(columns) : min(max(columns) + 1, width - 1)] = 1
    return mask


def refined(scores: Tensor, mask: Tensor, attention: Tensor) -> Tensor:
    """Two steps of the symmetric, doubly normalised attention, from inside the boxes."""
    steps = attention
    for _ in range(3):
        steps = steps / steps.sum(dim=0, keepdim=True)
        steps = steps / steps.sum(dim=1, keepdim=True)
    steps = (steps + steps.T) / 2
    return ((steps @ steps * mask.reshape(1, -1)) @ scores.reshape(-1)).reshape(scores.shape)


def write(sizes: Sizes, folder: Path) -> None:
    """One case: image tower, image, prompt embeddings, and what comes of them."""
    heads, grid = sizes.width // 64, tuple(side // PATCH for side in sizes.image_size)
    state = clip.random_image_tower(
        "visual.", sizes.width, sizes.layers, patch=PATCH, side=sizes.grid, embed_dim=sizes.embed_dim
    )
    state["logit_scale"] = torch.tensor(2.0)
    table = state["visual.positional_embedding"]
    positions = torch.cat([table[:1], clip.resized_positions(table[1:], grid, "bilinear")]).half()
    image = torch.randn(1, 3, *sizes.image_size).to(sizes.stored)
    texts = tuple(
        torch.randn(count, sizes.embed_dim).to(sizes.stored) for count in (sizes.foreground, sizes.background)
    )
    doubles = clip.as_double(state)
    scores, maps, attentions = class_maps(
        image.double(), doubles, positions.double(), heads, (texts[0].double(), texts[1].double())
    )
    attention = torch.stack(attentions[-sizes.attention_layers :]).mean(dim=0)[1:, 1:]
    maps = maps.to(sizes.stored).double()  # boxes are cut at steps of 1/255: of the maps as they are stored
    masks = torch.stack([boxes(own, sizes.box_threshold) for own in maps])
    spread = torch.stack([refined(own, mask, attention) for own, mask in zip(maps, masks, strict=True)])
    tensors = {"image": image, "foreground_text": texts[0], "background_text": texts[1], "scores": scores}
    tensors |= {"attention": attention, "cam": maps, "box_mask": masks, "cam_refined": spread}
    vision = {"width": sizes.width, "layers": sizes.layers, "heads": heads, "patch_size": PATCH}
    config = {
        "image_size": list(sizes.image_size),
        "vision": vision | {"input_resolution": sizes.grid * PATCH},
        "embed_dim": sizes.embed_dim,
        "text_width": 64,
        "box_threshold": sizes.box_threshold,
        "attention_layers": sizes.attention_layers,
    }
    write_case(folder, config, {name: value.to(sizes.stored) for name, value in tensors.items()})
    save_file(state | {"visual.positional_embedding_new": positions}, folder / "openai_clip.safetensors")
