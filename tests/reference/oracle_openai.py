"""Slow oracle of OpenAI's CLIP, in float64, and a maker of folders in the fixtures' layout at any size.

Written from Radford et al. (2021) and from github.com/openai/CLIP (clip/model.py, `CLIP`): class token and patches,
`ln_pre`, blocks, `ln_post` and `visual.proj`; texts by the causal tower, read where they end; logits by cosines. Heads
have 64 channels. The archive is made as OpenAI makes its own, by TorchScript, of a module that holds the tensors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import oracle_clip as clip
import torch
from oracle_clip import State
from oracle_tokenizer import token_ids
from parity_cases import write_case
from torch import Tensor, nn

BYTES = 256
HEAD_WIDTH = 64
TEXTS = ("a photo of a cat.", "tv monitor", "x", "dining table", "two birds on a wire")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that may differ from case to case."""

    width: int = 128
    layers: int = 3
    patch: int = 8
    grid: int = 3
    text_width: int = 64
    text_layers: int = 2
    context_length: int = 40
    embed_dim: int = 24
    texts: tuple[str, ...] = TEXTS
    batch: int = 2
    seen_grid: tuple[int, int] | None = None
    stored: torch.dtype = torch.float32
    script: bool = True


def random_state(sizes: Sizes) -> dict[str, Tensor]:
    """Tensors by OpenAI's names; the vocabulary is every byte, in a word and at its end, and the two marks."""
    visual = clip.random_image_tower(
        "visual.", sizes.width, sizes.layers, patch=sizes.patch, side=sizes.grid, embed_dim=sizes.embed_dim
    )
    text = clip.random_text_tower(
        "",
        sizes.text_width,
        sizes.text_layers,
        context_length=sizes.context_length,
        vocabulary=2 * BYTES + 2,
        embed_dim=sizes.embed_dim,
    )
    return visual | text | {"logit_scale": torch.tensor(math.log(20.0))}


def image_embeddings(pixels: Tensor, state: State) -> Tensor:
    """`(B, 3, H, W)`, sides multiples of the patch, to `(B, 1 + hw, E)`; OpenAI hands out the first token."""
    patches, grid = clip.embed_patches(pixels, state["visual.conv1.weight"])
    table = state["visual.positional_embedding"]
    places = clip.resized_positions(table[1:], grid, "bicubic") if grid[0] * grid[1] != len(table) - 1 else table[1:]
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], dim=1) + torch.cat([table[:1], places])
    heads = x.shape[-1] // HEAD_WIDTH
    x = clip.run_blocks(clip.layer_norm(x, state, "visual.ln_pre"), state, "visual.", heads)[-1]
    return clip.layer_norm(x, state, "visual.ln_post") @ state["visual.proj"]


def tokens_of(texts: Sequence[str], length: int) -> Tensor:
    """`(K, length)`, zeros behind the end, as OpenAI pads."""
    rows = [token_ids(text, []) for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def text_embeddings(tokens: Tensor, state: State) -> Tensor:
    """`(K, L)` to `(K, E)`."""
    embedded = state["token_embedding.weight"][tokens]
    heads = embedded.shape[-1] // HEAD_WIDTH
    return clip.text_features(embedded, tokens.argmax(dim=-1), state, "", heads)


def write(sizes: Sizes, folder: Path) -> None:
    """`archive.pt`, `config.json` and `expected.safetensors` of random weights."""
    state = {name: value.to(sizes.stored) for name, value in random_state(sizes).items()}
    side = sizes.grid * sizes.patch
    height, width = (n * sizes.patch for n in sizes.seen_grid or (sizes.grid, sizes.grid))
    pixels, double = torch.rand(sizes.batch, 3, height, width), clip.as_double(state)
    tokens = tokens_of(sizes.texts, sizes.context_length)
    texts, images = text_embeddings(tokens, double), image_embeddings(pixels.double(), double)
    cosines = nn.functional.normalize(images[:, 0], dim=-1) @ nn.functional.normalize(texts, dim=-1).T
    folder.mkdir(parents=True)
    extra = {"input_resolution": side, "context_length": sizes.context_length, "vocab_size": 2 * BYTES + 2}
    numbers = {name: torch.tensor(number) for name, number in extra.items()}
    save_archive(state | numbers, folder / "archive.pt", script=sizes.script)
    expected = {
        "image": pixels,
        "tokens": tokens,
        "text_embeds": texts,
        "image_tokens": images,
        "image_embeds": images[:, 0].clone(),
        "logits_per_image": double["logit_scale"].exp() * cosines,
    }
    write_case(folder, {"texts": list(sizes.texts)}, expected)


class _Holder(nn.Module):
    """A module tree with the tensors under their names; traced, it is a TorchScript archive as OpenAI ships them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *path, last = name.split(".")
            home: nn.Module = self
            for part in path:
                if not hasattr(home, part):
                    home.add_module(part, nn.Module())
                home = home.get_submodule(part)
            if value.is_floating_point():
                home.register_parameter(last, nn.Parameter(value, requires_grad=False))
            else:
                home.register_buffer(last, value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_parameter("logit_scale")


def save_archive(state: Mapping[str, Tensor], path: Path, *, script: bool) -> None:
    """As a TorchScript archive, or as a plain state dict."""
    if not script:
        torch.save(dict(state), path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is on its way out; OpenAI's archives stay
        torch.jit.save(torch.jit.trace(_Holder(state), torch.ones(1)), path)
