"""Slow oracle of CLIP's two towers, in float64, by OpenAI's names: after Radford et al. (2021)
and Dosovitskiy et al. (2021), head by head; random weights of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def random_blocks(prefix: str, width: int, layers: int) -> dict[str, Tensor]:
    """Weights of the transformer `<prefix>transformer.resblocks`, loud enough that differences show."""
    state: dict[str, Tensor] = {}
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}."
        shapes = {
            "attn.in_proj_weight": (3 * width, width),
            "attn.out_proj.weight": (width, width),
            "mlp.c_fc.weight": (4 * width, width),
            "mlp.c_proj.weight": (width, 4 * width),
        }
        for name, shape in shapes.items():
            state[block + name] = torch.randn(shape) * 1.5 / math.sqrt(shape[1])
            state[block + name.replace("weight", "bias")] = 0.1 * torch.randn(shape[0])
        state |= {block + f"ln_{n}.{name}": value for n in (1, 2) for name, value in random_norm(width).items()}
    return state


def random_norm(width: int) -> dict[str, Tensor]:
    """Weight and bias of a layer norm."""
    return {"weight": 1 + 0.2 * torch.randn(width), "bias": 0.2 * torch.randn(width)}


def random_image_tower(
    prefix: str, width: int, layers: int, *, patch: int, side: int, embed_dim: int
) -> dict[str, Tensor]:
    """An image tower for a trained grid of `side x side` patches."""
    state = {
        "class_embedding": torch.randn(width),
        "positional_embedding": torch.randn(1 + side**2, width),
        "proj": torch.randn(width, embed_dim) / math.sqrt(width),
        "conv1.weight": torch.randn(width, 3, patch, patch) / patch,
    }
    state |= {f"{norm}.{name}": value for norm in ("ln_pre", "ln_post") for name, value in random_norm(width).items()}
    return {prefix + name: value for name, value in state.items()} | random_blocks(prefix, width, layers)


def random_text_tower(
    prefix: str, width: int, layers: int, *, context_length: int, vocabulary: int, embed_dim: int
) -> dict[str, Tensor]:
    """A text tower."""
    state = {
        "positional_embedding": torch.randn(context_length, width),
        "text_projection": torch.randn(width, embed_dim) / math.sqrt(width),
        "token_embedding.weight": torch.randn(vocabulary, width),
    }
    state |= {f"ln_final.{name}": value for name, value in random_norm(width).items()}
    return {prefix + name: value for name, value in state.items()} | random_blocks(prefix, width, layers)


def layer_norm(x: Tensor, state: State, name: str, epsilon: float = 1e-5) -> Tensor:
    """Over the last axis, by `<name>.weight` and `<name>.bias`."""
    centred = x - x.mean(dim=-1, keepdim=True)
    unit = centred / (centred.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    """By `<name>.weight`, and `<name>.bias` where there is one."""
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros((), dtype=x.dtype))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """`(B, N, C)` and `(B, M, C)`, one head after the other: the result, and the weights `(heads, B, N, M)`."""
    size = query.shape[-1] // heads
    results, weights = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = torch.einsum("bnc,bmc->bnm", query[..., part], key[..., part]) / math.sqrt(size)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        weights.append(scores.softmax(dim=-1))
        results.append(torch.einsum("bnm,bmc->bnc", weights[-1], value[..., part]))
    return torch.cat(results, dim=-1), torch.stack(weights)


def block(x: Tensor, normed: Tensor, state: State, name: str, heads: int, *, causal: bool) -> tuple[Tensor, Tensor]:
    """One layer of CLIP from its input and the same through `ln_1`: the output and the weights `(heads, B, N, N)`."""
    joint = normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
    mixed, weights = attend(*joint.chunk(3, dim=-1), heads, causal=causal)
    x = x + linear(mixed, state, f"{name}.attn.out_proj")
    hidden = linear(layer_norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp.c_fc")
    return x + linear(hidden / (1 + torch.exp(-1.702 * hidden)), state, f"{name}.mlp.c_proj"), weights


def run_blocks(x: Tensor, state: State, prefix: str, heads: int, *, causal: bool = False) -> list[Tensor]:
    """Outputs of all layers."""
    outputs = []
    while f"{prefix}transformer.resblocks.{len(outputs)}.ln_1.weight" in state:
        name = f"{prefix}transformer.resblocks.{len(outputs)}"
        x, _ = block(x, layer_norm(x, state, f"{name}.ln_1"), state, name, heads, causal=causal)
        outputs.append(x)
    return outputs


def embed_patches(pixels: Tensor, kernel: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Whole patches of `(B, 3, H, W)` through `(D, 3, p, p)`, `(B, hw, D)`, and the grid; what is over is not seen."""
    patch = kernel.shape[-1]
    height, width = (side // patch for side in pixels.shape[-2:])
    tiles = pixels[..., : height * patch, : width * patch].unflatten(3, (width, patch)).unflatten(2, (height, patch))
    return torch.einsum("bcypxq,dcpq->byxd", tiles, kernel).flatten(1, 2), (height, width)


def resized_positions(table: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """`(n², D)` of a square grid for another one, `(hw, D)`."""
    side = math.isqrt(len(table))
    square = table.T.reshape(1, -1, side, side)
    return torch.nn.functional.interpolate(square, size=grid, mode=mode, align_corners=False).flatten(2)[0].T


def text_features(embeddings: Tensor, ends: Tensor, state: State, prefix: str, heads: int) -> Tensor:
    """`(K, L, C)` token embeddings and where the texts end -> `(K, E)`."""
    x = embeddings + state[f"{prefix}positional_embedding"][: embeddings.shape[1]]
    x = layer_norm(run_blocks(x, state, prefix, heads, causal=True)[-1], state, f"{prefix}ln_final")
    return x[torch.arange(len(x)), ends] @ state[f"{prefix}text_projection"]


def as_double(state: State) -> dict[str, Tensor]:
    """Floating-point tensors in float64."""
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
