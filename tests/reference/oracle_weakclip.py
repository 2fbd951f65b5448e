"""Slow oracle of the released WeakCLIP, in float64, and a maker of folders in the fixtures' layout at any size.

Written from docs/method.md and from reading github.com/hustvl/WeakCLIP (weakclip/models.py, weakclip.py, heads.py,
dgcnutils.py) and mmsegmentation's FPN and FPNHead: one part after the other, from the released names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle_clip as clip
import torch
import torch.nn.functional as F
from oracle_clip import State
from parity_cases import write_case
from torch import Tensor

MEAN = torch.tensor([123.675, 116.28, 103.53], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375], dtype=torch.float64).view(3, 1, 1)
BYTES = 256
"""A vocabulary without merges: bytes, bytes that end a word, start, end."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that may differ from case to case."""

    class_names: tuple[str, ...] = ("background", "cat", "a boat", "zeppelin")
    image_size: tuple[int, int] = (64, 80)
    batch: int = 2
    width: int = 24
    layers: int = 4
    heads: int = 3
    patch: int = 16
    grid: int = 4
    taps: tuple[int, ...] = (0, 1, 2, 3)
    text_width: int = 24
    text_layers: int = 2
    text_heads: int = 2
    prompt_tokens: int = 8
    spare_tokens: int = 1
    co_width: int = 16
    co_heads: int = 2
    co_layers: int = 2
    decoder_channels: int = 12
    loss_size: tuple[int, int] = (16, 16)
    seeds: str = "mixed"
    stored: torch.dtype = torch.float32


def tokens_of(names: tuple[str, ...]) -> Tensor:
    """`(K, L)` ids over bytes; a word's last byte has an id of its own; padded with 0 as OpenAI does."""
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(BYTES) if byte not in order]
    rows = []
    for name in names:
        row = [2 * BYTES]
        for word in name.lower().split():
            *first, last = (order.index(byte) for byte in word.encode())
            row += [*first, BYTES + last]
        rows.append([*row, 2 * BYTES + 1])
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def random_state(sizes: Sizes, words: int) -> dict[str, Tensor]:
    """All tensors of a released checkpoint; `words` is the number of tokens of the class names."""
    embed_dim, classes, context = sizes.text_width, len(sizes.class_names), sizes.prompt_tokens + words
    state = clip.random_image_tower(
        "backbone.", sizes.width, sizes.layers, patch=sizes.patch, side=sizes.grid, embed_dim=embed_dim
    )
    state |= clip.random_text_tower(
        "text_encoder.",
        sizes.text_width,
        sizes.text_layers,
        context_length=context + sizes.spare_tokens,
        vocabulary=2 * BYTES + 2,
        embed_dim=embed_dim,
    )
    state["contexts"] = torch.randn(1, sizes.prompt_tokens, sizes.text_width)
    state |= {"gamma": 0.5 * torch.randn(embed_dim), "beta": 0.5 * torch.randn(embed_dim)}
    return state | _random_adapter(sizes.width) | _random_attention(sizes) | _random_decoder(sizes, classes)


def _affine(name: str, *shape: int, bias: bool = True) -> dict[str, Tensor]:
    fan_in = math.prod(shape[1:])
    weights = {f"{name}.weight": 1.5 * torch.randn(shape) / math.sqrt(fan_in)}
    return weights | ({f"{name}.bias": 0.2 * torch.randn(shape[0])} if bias else {})


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in clip.random_norm(width).items()}


def _batch_norm(name: str, width: int) -> dict[str, Tensor]:
    statistics = {"running_mean": 0.3 * torch.randn(width), "running_var": 0.5 + torch.rand(width)}
    statistics["num_batches_tracked"] = torch.tensor(7)
    return _norm(name, width) | {f"{name}.{key}": value for key, value in statistics.items()}


def _random_adapter(width: int) -> dict[str, Tensor]:
    state = {}
    for norm in ("fpn1.0", "fpn2.0", "fpn3", "fpn4.0"):
        state |= _norm(f"backbone.{norm}", width)
    for up in ("fpn1.1", "fpn1.4", "fpn2.1"):
        state |= {f"backbone.{up}.weight": torch.randn(width, width, 2, 2) / math.sqrt(width)}
        state |= {f"backbone.{up}.bias": 0.2 * torch.randn(width)}
    return state | _batch_norm("backbone.fpn1.2", width)


def _random_attention(sizes: Sizes) -> dict[str, Tensor]:
    wide, narrow, prefix = sizes.text_width, sizes.co_width, "context_decoder."
    state = _norm(f"{prefix}memory_proj.0", wide) | _affine(f"{prefix}memory_proj.1", narrow, wide)
    state |= _norm(f"{prefix}memory_proj.2", narrow)
    state |= _norm(f"{prefix}text_proj.0", wide) | _affine(f"{prefix}text_proj.1", narrow, wide)
    for stack, out in (("decoder", "out_proj"), ("anti_decoder", "anti_out_proj")):
        state |= _norm(f"{prefix}{out}.0", narrow) | _affine(f"{prefix}{out}.1", wide, narrow)
        for layer in range(sizes.co_layers):
            name = f"{prefix}{stack}.{layer}."
            for kind in ("self_attn", "cross_attn"):
                for part in ("q_proj", "k_proj", "v_proj"):
                    state |= _affine(f"{name}{kind}.{part}", narrow, narrow, bias=False)
                state |= _affine(f"{name}{kind}.proj", narrow, narrow)
            for norm in ("norm1", "norm2", "norm3"):
                state |= _norm(name + norm, narrow)
            state |= _affine(f"{name}mlp.0", 4 * narrow, narrow) | _affine(f"{name}mlp.3", narrow, 4 * narrow)
    return state


def _random_decoder(sizes: Sizes, classes: int) -> dict[str, Tensor]:
    channels, state = sizes.decoder_channels, {}
    for level in range(4):
        state |= _affine(f"neck.lateral_convs.{level}.conv", channels, sizes.width + classes, 1, 1)
        state |= _affine(f"neck.fpn_convs.{level}.conv", channels, channels, 3, 3)
        for step in range(max(1, level)):
            name = f"decode_head.scale_heads.{level}.{2 * step}"
            state |= _affine(f"{name}.conv", channels, channels, 3, 3, bias=False)
            state |= _batch_norm(f"{name}.bn", channels)
    return state | _affine("decode_head.conv_seg", classes, channels, 1, 1)


def image_features(pixels: Tensor, state: State, heads: int, taps: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Maps of the tapped layers `(B, D, h, w)`, and all projected tokens; the class embedding counts twice."""
    patches, grid = clip.embed_patches(pixels, state["backbone.conv1.weight"])
    table = state["backbone.positional_embedding"]
    patches = patches + clip.resized_positions(table[1:], grid, "bilinear")
    first = (2 * state["backbone.class_embedding"] + table[0]).expand(len(pixels), 1, -1)
    x = clip.layer_norm(torch.cat([first, patches], dim=1), state, "backbone.ln_pre")
    outputs = clip.run_blocks(x, state, "backbone.", heads)
    maps = [outputs[tap][:, 1:].transpose(1, 2).unflatten(2, grid) for tap in taps]
    return maps, clip.layer_norm(outputs[-1], state, "backbone.ln_post") @ state["backbone.proj"]


def pyramid(maps: list[Tensor], state: State) -> list[Tensor]:
    """Strides 4, 8, 16 and 32 of 16-pixel patches."""
    first, second, third, fourth = (
        _group_norm(level, state, f"backbone.{name}")
        for level, name in zip(maps, ("fpn1.0", "fpn2.0", "fpn3", "fpn4.0"), strict=True)
    )
    first = _gelu(_batch_normed(_doubled(first, state, "backbone.fpn1.1"), state, "backbone.fpn1.2"))
    height, width = (side // 2 for side in fourth.shape[-2:])
    windows = fourth[..., : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
    return [
        _doubled(first, state, "backbone.fpn1.4"),
        _doubled(second, state, "backbone.fpn2.1"),
        third,
        windows.amax(dim=(3, 5)),
    ]


def _group_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
    unit = centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-5).sqrt()
    return unit * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def _batch_normed(x: Tensor, state: State, name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def _doubled(x: Tensor, state: State, name: str) -> Tensor:
    """2x2 transposed convolution of stride 2: every pixel becomes four."""
    four = torch.einsum("bchw,copq->bohpwq", x, state[f"{name}.weight"])
    return four.flatten(4, 5).flatten(2, 3) + state[f"{name}.bias"][:, None, None]


def co_attention(text: Tensor, image: Tensor, state: State, heads: int) -> tuple[Tensor, Tensor]:
    """What is added to the text `(B, K, E)` and the image tokens `(B, N, E)`: every layer reads the first input."""
    prefix = "context_decoder."
    memory = clip.linear(clip.layer_norm(image, state, f"{prefix}memory_proj.0"), state, f"{prefix}memory_proj.1")
    memory = clip.layer_norm(memory, state, f"{prefix}memory_proj.2")
    words = clip.linear(clip.layer_norm(text, state, f"{prefix}text_proj.0"), state, f"{prefix}text_proj.1")
    results = []
    for stack, out, x, other in (
        ("decoder", "out_proj", words, memory),
        ("anti_decoder", "anti_out_proj", memory, words),
    ):
        layer = 0
        while f"{prefix}{stack}.{layer}.norm1.weight" in state:
            result = _decoder_layer(x, other, state, f"{prefix}{stack}.{layer}.", heads)
            layer += 1
        results.append(clip.linear(clip.layer_norm(result, state, f"{prefix}{out}.0"), state, f"{prefix}{out}.1"))
    return results[0], results[1]


def _decoder_layer(x: Tensor, memory: Tensor, state: State, name: str, heads: int) -> Tensor:
    for kind, norm in (("self_attn", "norm1"), ("cross_attn", "norm2")):
        query = clip.layer_norm(x, state, name + norm)
        source = query if kind == "self_attn" else memory
        projected = [clip.linear(query, state, f"{name}{kind}.q_proj")]
        projected += [clip.linear(source, state, f"{name}{kind}.{part}_proj") for part in "kv"]
        x = x + clip.linear(clip.attend(*projected, heads)[0], state, f"{name}{kind}.proj")
    hidden = _gelu(clip.linear(clip.layer_norm(x, state, f"{name}norm3"), state, f"{name}mlp.0"))
    return x + clip.linear(hidden, state, f"{name}mlp.3")


def decode(levels: list[Tensor], match_map: Tensor, state: State) -> Tensor:
    """Feature pyramid and Semantic-FPN head."""
    merged = []
    for index, level in enumerate(levels):
        resized = F.interpolate(match_map, size=level.shape[-2:], mode="bilinear", align_corners=True)
        merged.append(_convolved(torch.cat([level, resized], dim=1), state, f"neck.lateral_convs.{index}.conv"))
    for index in (2, 1, 0):
        merged[index] = merged[index] + F.interpolate(merged[index + 1], size=merged[index].shape[-2:], mode="nearest")
    total = torch.zeros(())
    for index, level in enumerate(merged):
        x = _convolved(level, state, f"neck.fpn_convs.{index}.conv")
        for step in range(max(1, index)):
            name = f"decode_head.scale_heads.{index}.{2 * step}"
            x = _batch_normed(_convolved(x, state, f"{name}.conv"), state, f"{name}.bn").clamp_min(0)
            if index > 0:
                size = [2 * side for side in x.shape[-2:]]
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        if index > 0:
            x = F.interpolate(x, size=total.shape[-2:], mode="bilinear", align_corners=False)
        total = total + x
    return _convolved(total, state, "decode_head.conv_seg")


def _convolved(x: Tensor, state: State, name: str) -> Tensor:
    kernel = state[f"{name}.weight"]
    return F.conv2d(x, kernel, state.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)


def losses(
    logits: Tensor, match_map: Tensor, seeds: Tensor, target: Tensor, size: tuple[int, int]
) -> dict[str, Tensor]:
    """Probabilities, cues and the three losses, one image and one pixel after the other."""
    corners = size[0] % 2 == 1 and size[1] % 2 == 1
    small = F.interpolate(logits, size=size, mode="bilinear", align_corners=corners).softmax(dim=1)
    probs = (small + 1e-7) / (small + 1e-7).sum(dim=1, keepdim=True)
    grid = F.interpolate(seeds.double(), size=size, mode="nearest")[:, 0].long()
    cues = torch.stack([grid == label for label in range(logits.shape[1])], dim=1).double()
    seeding = torch.zeros((), dtype=torch.float64)
    for own, seeded in zip(probs.log(), cues, strict=True):
        for part in (slice(0, 1), slice(1, None)):
            seeding -= (own[part] * seeded[part]).sum() / max(float(seeded[part].sum()), 1e-4) / len(probs)
    boundary = (target * (target / probs).clamp(0.05, 20).log()).sum(dim=1).mean()
    wide = F.interpolate(match_map / 0.07, size=seeds.shape[-2:], mode="bilinear", align_corners=False).log_softmax(1)
    known = seeds[:, 0] != 255
    chosen = wide.gather(1, torch.where(known, seeds[:, 0].long(), 0)[:, None])[:, 0]
    matching = -0.4 * (chosen * known).mean()
    return {
        "probabilities": probs,
        "cues": cues,
        "seeding_loss": seeding[None],
        "boundary_loss": boundary[None],
        "matching_loss": matching[None],
    }


def random_seeds(sizes: Sizes) -> Tensor:
    """`(B, 1, H, W)` uint8: blocks of classes and 255; or all of one value."""
    shape = (sizes.batch, 1, *sizes.image_size)
    if sizes.seeds != "mixed":
        return torch.full(shape, {"undecided": 255, "background": 0}[sizes.seeds], dtype=torch.uint8)
    drawn = torch.randint(0, len(sizes.class_names) + 2, (sizes.batch, 1, 7, 9))
    drawn = torch.where(drawn >= len(sizes.class_names), 255, drawn).double()
    return F.interpolate(drawn, size=sizes.image_size, mode="nearest").to(torch.uint8)


def expected(state: State, sizes: Sizes, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Every tensor of `expected.safetensors`, in float64."""
    pixels = (images.double() - MEAN) / STD
    maps, image = image_features(pixels, state, sizes.heads, sizes.taps)
    words = state["text_encoder.token_embedding.weight"][tokens]
    prompt = state["contexts"].expand(len(words), -1, -1)
    embeddings = torch.cat([words[:, :1], prompt, words[:, 1:]], dim=1)
    ends = tokens.argmax(dim=1) + sizes.prompt_tokens
    text = clip.text_features(embeddings, ends, state, "text_encoder.", sizes.text_heads)
    text_change, image_change = co_attention(text.expand(len(images), -1, -1), image, state, sizes.co_heads)
    matched, pixels_matched = text + state["gamma"] * text_change, image + state["beta"] * image_change
    unit = F.normalize(pixels_matched[:, 1:], dim=-1) @ F.normalize(matched, dim=-1).transpose(1, 2)
    match_map = unit.transpose(1, 2).unflatten(2, maps[0].shape[-2:])
    levels = pyramid(maps, state)
    logits = decode(levels, match_map, state)
    seeds = random_seeds(sizes)
    target = torch.rand(len(images), len(words), *sizes.loss_size).double().softmax(dim=1)
    return {
        "image_uint8": images,
        "image": pixels,
        "tokens": tokens,
        "text_embeddings": text[None],
        "global_embedding": image[:, 0],
        "pixel_embeddings": image[:, 1:].transpose(1, 2).unflatten(2, maps[0].shape[-2:]),
        **{f"pyramid_{stride}": level for stride, level in zip((4, 8, 16, 32), levels, strict=True)},
        "matched_text_embeddings": matched,
        "match_map": match_map,
        "logits": logits,
        "logits_full": F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False),
        "seed_mask": seeds,
        "boundary_target": target,
        **losses(logits, match_map, seeds, target, sizes.loss_size),
    }


def configuration(sizes: Sizes, words: int) -> dict[str, Any]:
    """`config.json`."""
    return {
        "class_names": list(sizes.class_names),
        "image_size": list(sizes.image_size),
        "vision": {
            "width": sizes.width,
            "layers": sizes.layers,
            "heads": sizes.heads,
            "patch_size": sizes.patch,
            "input_resolution": sizes.grid * sizes.patch,
            "taps": list(sizes.taps),
        },
        "text": {
            "width": sizes.text_width,
            "layers": sizes.text_layers,
            "heads": sizes.text_heads,
            "context_length": sizes.prompt_tokens + words + sizes.spare_tokens,
            "prompt_tokens": sizes.prompt_tokens,
        },
        "embed_dim": sizes.text_width,
        "co_attention": {"width": sizes.co_width, "heads": sizes.co_heads, "layers": sizes.co_layers},
        "decoder_channels": sizes.decoder_channels,
        "loss_size": list(sizes.loss_size),
    }


def write(sizes: Sizes, folder: Path) -> None:
    """One case, with a vocabulary of bytes in `vocabulary/`."""
    tokens = tokens_of(sizes.class_names)
    state = random_state(sizes, tokens.shape[1])
    images = torch.randint(0, 256, (sizes.batch, 3, *sizes.image_size), dtype=torch.uint8)
    tensors = expected(clip.as_double(state), sizes, images, tokens)
    stored = {name: value.to(sizes.stored) if value.is_floating_point() else value for name, value in tensors.items()}
    write_case(folder, configuration(sizes, tokens.shape[1]), stored)
    torch.save({"state_dict": state, "meta": {"CLASSES": list(sizes.class_names)}}, folder / "official.pth")
