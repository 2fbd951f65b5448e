"""Slow oracle of the released MCTformer+, in float64, and a maker of folders in the fixtures' layout at any size.

Written from Xu et al. (arXiv:2308.03005) and from reading github.com/xulianuwa/MCTformer (models.py, engine.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import oracle_clip as clip
import torch
from oracle_clip import State
from parity_cases import write_case
from torch import Tensor

EPSILON = 1e-6
"""Of DeiT's layer norms."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that may differ from case to case."""

    train_size: int = 64
    test_size: tuple[int, int] = (64, 96)
    train_batch: int = 2
    test_batch: int = 1
    classes: int = 4
    dim: int = 24
    depth: int = 4
    heads: int = 3
    patch_size: int = 16
    cam_layers: int = 3
    decay: float = 0.996
    stored: torch.dtype = torch.float32


def random_state(sizes: Sizes) -> dict[str, Tensor]:
    """All tensors of a released checkpoint, DeiT's unused ones included."""
    width, classes, count = sizes.dim, sizes.classes, (sizes.train_size // sizes.patch_size) ** 2
    state = {
        "cls_token": torch.randn(1, classes, width),
        "pos_embed": torch.randn(1, count + 1, width),
        "pos_embed_cls": torch.randn(1, classes, width),
        "pos_embed_pat": torch.randn(1, count, width),
        "patch_embed.proj.weight": torch.randn(width, 3, sizes.patch_size, sizes.patch_size) / sizes.patch_size,
        "patch_embed.proj.bias": 0.3 * torch.randn(width),
        "head.weight": torch.randn(classes, width, 3, 3) / math.sqrt(9 * width),
        "head.bias": 0.3 * torch.randn(classes),
    }
    for layer in range(sizes.depth):
        block = f"blocks.{layer}."
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            state[f"{block}{name}.weight"] = 1.5 * torch.randn(rows, columns) / math.sqrt(columns)
            state[f"{block}{name}.bias"] = 0.1 * torch.randn(rows)
        state |= {f"{block}norm{n}.{key}": value for n in (1, 2) for key, value in clip.random_norm(width).items()}
    return state | {f"norm.{key}": value for key, value in clip.random_norm(width).items()}


def run(pixels: Tensor, state: State, heads: int) -> tuple[list[Tensor], list[Tensor], tuple[int, int]]:
    """Tokens after every layer `(B, K-1+hw, D)`, attentions `(B, N, N)` averaged over the heads, and the grid."""
    patches, grid = clip.embed_patches(pixels, state["patch_embed.proj.weight"])
    patches = (
        patches + state["patch_embed.proj.bias"] + clip.resized_positions(state["pos_embed_pat"][0], grid, "bicubic")
    )
    own = (state["cls_token"] + state["pos_embed_cls"]).expand(len(pixels), -1, -1)
    x, outputs, attentions = torch.cat([own, patches], dim=1), [], []
    while f"blocks.{len(outputs)}.norm1.weight" in state:
        name = f"blocks.{len(outputs)}."
        joint = clip.linear(clip.layer_norm(x, state, f"{name}norm1", EPSILON), state, f"{name}attn.qkv")
        mixed, weights = clip.attend(*joint.chunk(3, dim=-1), heads)
        x = x + clip.linear(mixed, state, f"{name}attn.proj")
        hidden = clip.linear(clip.layer_norm(x, state, f"{name}norm2", EPSILON), state, f"{name}mlp.fc1")
        x = x + clip.linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, state, f"{name}mlp.fc2")
        outputs.append(x)
        attentions.append(weights.mean(dim=0))
    return outputs, attentions, grid


def class_maps(tokens: Tensor, state: State, grid: tuple[int, int]) -> Tensor:
    """`(B, K-1, h, w)` from the patch tokens."""
    square = tokens[:, state["cls_token"].shape[1] :].transpose(1, 2).unflatten(2, grid)
    return torch.nn.functional.conv2d(square, state["head.weight"], state["head.bias"], padding=1)


def ranked_mean(maps: Tensor, decay: float) -> Tensor:
    """Values in falling order, each weighing `decay` times the one before."""
    results = torch.zeros(maps.shape[:2], dtype=maps.dtype)
    for image, own in enumerate(maps):
        for label, values in enumerate(own):
            ordered = sorted(values.flatten().tolist(), reverse=True)
            weights = [decay**rank for rank in range(len(ordered))]
            total = sum(weight * value for weight, value in zip(weights, ordered, strict=True))
            results[image, label] = total / sum(weights)
    return results


def expected(state: State, sizes: Sizes, train: Tensor, test: Tensor) -> dict[str, Tensor]:
    """Every tensor of `expected.safetensors`, in float64."""
    count = sizes.classes
    outputs, _, grid = run(train, state, sizes.heads)
    tensors = {
        "train_image": train,
        "class_logits": outputs[-1][:, :count].mean(dim=-1),
        "patch_logits": ranked_mean(class_maps(outputs[-1], state, grid), sizes.decay),
        "class_tokens_per_layer": torch.stack([tokens[:, :count] for tokens in outputs]),
    }
    outputs, attentions, grid = run(test, state, sizes.heads)
    maps = class_maps(outputs[-1], state, grid)
    looked_at = torch.stack(attentions[-sizes.cam_layers :]).mean(dim=0)[:, :count, count:].unflatten(2, grid)
    affinity = torch.stack(attentions).sum(dim=0)[:, count:, count:]
    cam = (looked_at * maps.clamp_min(0)).sqrt()
    return tensors | {
        "test_image": test,
        "test_logits": (outputs[-1][:, :count].mean(dim=-1) + ranked_mean(maps, sizes.decay)) / 2,
        "cam": cam,
        "patch_affinity": affinity,
        "cam_refined": torch.einsum("bij,bkj->bki", affinity, cam.flatten(2)).unflatten(2, grid),
    }


def write(sizes: Sizes, folder: Path) -> None:
    """One case."""
    state = random_state(sizes)
    train = torch.randn(sizes.train_batch, 3, sizes.train_size, sizes.train_size)
    test = torch.randn(sizes.test_batch, 3, *sizes.test_size)
    tensors = expected(clip.as_double(state), sizes, train.to(sizes.stored).double(), test.to(sizes.stored).double())
    names = ("train_size", "classes", "dim", "depth", "heads", "patch_size", "cam_layers", "decay")
    config = {name: getattr(sizes, name) for name in names} | {"test_size": list(sizes.test_size)}
    write_case(folder, config, {name: value.to(sizes.stored) for name, value in tensors.items()})
    torch.save({"model": state, "epoch": 44}, folder / "official.pth")
