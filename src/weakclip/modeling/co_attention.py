"""Co-attention matching: text attends to pixels, pixels attend to text, and both are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakclip.clip.recomputation import run_part

MATCH_TEMPERATURE = 0.07
"""Divisor of the match map's cosine similarities before a softmax (released code of Zhu et al., IJCV 2024)."""
_KEPT_BY_LAYER = 31
"""Inner results that two layers, one of each stack, keep for the backward pass, in sizes of both inputs; counted."""


class CoAttention(nn.Module):
    """Two stacks of transformer decoder layers in a narrow width, one for each direction.

        t_p* = t_p + alpha * CoAtt_text(t_p, f_p)        f_p* = f_p + beta * CoAtt_image(f_p, t_p)

    Layers chain: each takes the result of the one before. What is attended to is the projected other side, the same
    for all layers of a stack.

    Args:
        embed_dim: `E`, joint embedding width of CLIP.
        width: narrow width of the layers.
        heads: attention heads, a divisor of `width`.
        num_layers: layers in each stack, at least 1.
        dropout: after each attention and in the MLP, 0...1.
        temperature_init: first value of every channel of alpha and beta (0.1 is the paper's best).

    Source: Zhu et al., IJCV 2024; the layers as in Rao et al., DenseCLIP, CVPR 2022.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        width: int = 256,
        heads: int = 4,
        num_layers: int = 3,
        dropout: float = 0.1,
        temperature_init: float = 0.1,
    ) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.image_projection = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width), nn.LayerNorm(width))
        self.text_projection = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width))
        self.text_layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(num_layers))
        self.image_layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(num_layers))
        self.text_output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embed_dim))
        self.image_output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embed_dim))
        self.alpha = nn.Parameter(torch.full((embed_dim,), float(temperature_init)))
        self.beta = nn.Parameter(torch.full((embed_dim,), float(temperature_init)))
        self.apply(_init_linear)

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Match every class with every image token.

        Args:
            text: `t_p`, `(K, E)` float, the same for all images.
            image: `f_p`, `(B, N, E)` float, the patches last; what stands before them (a class token) is matched, too.

        Returns:
            `t_p*`, `(B, K, E)`, and `f_p*`, `(B, N, E)`.
        """
        narrow_image = self.image_projection(image)
        narrow_text = self.text_projection(text).expand(image.shape[0], -1, -1)
        text_change, image_change = narrow_text, narrow_image
        sizes = sum(each.numel() * each.element_size() for each in (narrow_image, narrow_text))
        needed = len(self.image_layers) * _KEPT_BY_LAYER * sizes
        for layer in self.text_layers:
            text_change = run_part(layer, text_change, narrow_image, needed=needed)
        for layer in self.image_layers:
            image_change = run_part(layer, image_change, narrow_text, needed=needed)
        matched_text = text + self.alpha * self.text_output(text_change)
        return matched_text, image + self.beta * self.image_output(image_change)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each with layer norm before and a residual around.

    Args:
        width: channels.
        heads: attention heads, a divisor of `width`.
        dropout: after each part and inside the MLP, 0...1.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """`(B, N, width)` attends to itself, then to `memory`, `(B, M, width)` -> `(B, N, width)`."""
        own = self.self_norm(x)
        x = x + self.self_attention(own, own)
        x = x + self.cross_attention(self.cross_norm(x), memory)
        return x + self.mlp(x)


class Attention(nn.Module):
    """Multi-head attention without biases on queries, keys and values.

    Args:
        width: channels.
        heads: attention heads, a divisor of `width`.
        dropout: on the result, 0...1.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {width}")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """`(B, N, width)` asks `memory`, `(B, M, width)` -> `(B, N, width)`."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(memory), self.value(memory))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))


def match_pixels(matched_image: Tensor, matched_text: Tensor, grid: tuple[int, int], *, prefix: int = 1) -> Tensor:
    """Match map: cosine similarity of every pixel with every class.

    Args:
        matched_image: `f_p*`, `(B, prefix+hw, E)` float, the patches last.
        matched_text: `t_p*`, `(B, K, E)` float.
        grid: `h, w`.
        prefix: how many tokens stand before the patches: 1 for a class token.

    Returns:
        `(B, K, h, w)` float32, -1...1.
    """
    with torch.autocast(matched_image.device.type, enabled=False):  # divided by 0.07 later: half precision would show
        pixels = functional.normalize(matched_image[:, prefix:].float(), dim=-1)
        classes = functional.normalize(matched_text.float(), dim=-1)
        return (classes @ pixels.transpose(1, 2)).unflatten(-1, grid)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
