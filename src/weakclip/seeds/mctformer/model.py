"""MCTformer+: a vision transformer with one class token for each foreground class.

The class tokens walk through the transformer beside the patch tokens. Three things come out: the mean of each class
token is that class's logit; a convolution over the patch tokens gives class maps, whose ranked values are pooled to a
second logit; and the attention tells which patches each class token looks at, and which patches belong together.
Parameters have the names of the released MCTformer+ and of DeiT.

References:
    Xu et al., "MCTformer+: Multi-Class Token Transformer for Weakly Supervised Semantic Segmentation", 2023
    (arXiv:2308.03005), and its released code.
    Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR 2022.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.clip.hub_files import IMAGENET_MEAN, IMAGENET_STD
from weakclip.errors import ConfigError
from weakclip.store.ranges import check_range

_NORM_EPSILON = 1e-6  # of DeiT


class MCTformerOutput(NamedTuple):
    """The output that training reads.

    Args:
        class_logits: `(B, K-1)` float32, from the class tokens.
        patch_logits: `(B, K-1)` float32, from the patch tokens.
        class_tokens: `(layers, B, K-1, D)` float32, the class tokens after each layer.
    """

    class_logits: Tensor
    patch_logits: Tensor
    class_tokens: Tensor


class Localization(NamedTuple):
    """Where the classes are.

    Args:
        logits: `(B, K-1)`, the mean of the two logits of `MCTformerOutput`.
        maps: `(B, K-1, h, w)`, 0 and up: class-to-patch attention and class maps, fused.
        affinity: `(B, hw, hw)`, patch-to-patch attention: mean over the heads, sum over the layers.
    """

    logits: Tensor
    maps: Tensor
    affinity: Tensor


class Attention(nn.Module):
    """Multi-head self-attention that shows its weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, N, D)` to `(B, N, D)`, and the weights `(B, heads, N, N)`, rows summing to 1."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2)), weights


class Block(nn.Module):
    """A transformer layer, norms first; in training each branch is left out of some images at random.

    Args:
        width: `D`.
        heads: attention heads, a divisor of it.
        drop_path: probability of leaving a branch out (stochastic depth, Huang et al., ECCV 2016).
    """

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPSILON)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, N, D)` to `(B, N, D)`, and the attention `(B, heads, N, N)`."""
        update, weights = self.attn(self.norm1(tokens))
        tokens = tokens + self._thinned(update)
        return tokens + self._thinned(self.mlp(self.norm2(tokens))), weights

    def _thinned(self, update: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return update
        kept = torch.rand(len(update), 1, 1, device=update.device) >= self.drop_path
        return update * kept / (1 - self.drop_path)


class MCTformer(nn.Module):
    """MCTformer+.

    Args:
        num_classes: `K`, with the background, which has no token.
        image_size: side of the training images, pixels; positions are learned for it, and resized for others.
        patch_size: side of a patch, pixels.
        width: `D`.
        depth: layers.
        heads: attention heads.
        drop_path: of the last layer; it rises from 0 in the first.
        rank_decay: each rank weighs so much as the one before it when class maps are pooled to logits, 0…1.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_size: int = 448,
        patch_size: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        drop_path: float = 0.1,
        rank_decay: float = 0.996,
    ) -> None:
        super().__init__()
        self.num_classes, self.patch_size, self.heads, self.rank_decay = num_classes, patch_size, heads, rank_decay
        self.side, count = image_size // patch_size, num_classes - 1
        self.cls_token = nn.Parameter(torch.empty(1, count, width))
        self.pos_embed_cls = nn.Parameter(torch.empty(1, count, width))
        self.pos_embed_pat = nn.Parameter(torch.empty(1, self.side**2, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, patch_size, stride=patch_size)))
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.head = nn.Conv2d(width, count, 3, padding=1)
        for name, value in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        for parameter in (self.cls_token, self.pos_embed_cls, self.pos_embed_pat):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks.apply(_init_linear)

    def forward(self, images: Tensor) -> MCTformerOutput:
        """The logits of both kinds, and the class tokens of every layer.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1; pixels beyond the last whole patch are not seen.
        """
        tokens, grid = self._embed(images)
        class_tokens = []
        for block in self.blocks:
            tokens, _ = block(tokens)
            class_tokens.append(tokens[:, : self.num_classes - 1])
        stacked = torch.stack(class_tokens).float()
        patch_logits = rank_pool(self._class_maps(tokens, grid).float(), self.rank_decay)
        return MCTformerOutput(stacked[-1].mean(dim=-1), patch_logits, stacked)

    @torch.no_grad()
    def localize(self, images: Tensor, *, attention_layers: int = 3) -> Localization:
        """Fused class maps `sqrt(A ∘ relu(M))` and the patch affinity.

        `A` is the attention of each class token to the patches, mean over the heads and the last layers; `M` are the
        class maps of the patch tokens.

        Args:
            images: as in `forward`.
            attention_layers: how many of the last layers' class-to-patch attentions are averaged.
        """
        tokens, grid = self._embed(images)
        layers = []
        for block in self.blocks:
            tokens, weights = block(tokens)
            layers.append(weights.mean(dim=1))
        attention, class_maps, count = torch.stack(layers), self._class_maps(tokens, grid), self.num_classes - 1
        looked_at = attention[-attention_layers:].mean(dim=0)[:, :count, count:].view_as(class_maps)
        logits = (tokens[:, :count].mean(dim=-1) + rank_pool(class_maps, self.rank_decay)) / 2
        return Localization(logits, (looked_at * class_maps.relu()).sqrt(), attention.sum(dim=0)[:, count:, count:])

    def _embed(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Input of the first layer `(B, K-1+hw, D)`, class tokens first, and the grid `h, w`."""
        pixels = images if images.is_floating_point() else images.float() / 255
        patches = self.patch_embed((pixels - self.pixel_mean) / self.pixel_std)
        grid = patches.shape[-2:]
        class_tokens = (self.cls_token + self.pos_embed_cls).expand(len(images), -1, -1)
        return torch.cat([class_tokens, patches.flatten(2).transpose(1, 2) + self._positions(grid)], dim=1), grid

    def _class_maps(self, tokens: Tensor, grid: torch.Size) -> Tensor:
        """`(B, K-1, h, w)` of the last layer's tokens."""
        patches = tokens[:, self.num_classes - 1 :].transpose(1, 2).unflatten(2, grid)
        class_maps: Tensor = self.head(patches)
        return class_maps

    def _positions(self, grid: torch.Size) -> Tensor:
        """Position embeddings of the patches for any grid, `(1, hw, D)`."""
        if grid == (self.side, self.side):
            return self.pos_embed_pat
        square = self.pos_embed_pat.transpose(1, 2).unflatten(2, (self.side, self.side))
        return F.interpolate(square, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def rank_pool(class_maps: Tensor, decay: float) -> Tensor:
    """Global weighted ranking pooling: `Σ_j d^j x_(j) / Σ_j d^j` over the values in falling order, `j` from 0.

    `d = 1` is the mean and `d = 0` the maximum (Kolesnikov and Lampert, ECCV 2016).

    Args:
        class_maps: `(B, K-1, h, w)` float.
        decay: `d`, 0…1.

    Returns:
        `(B, K-1)`.

    >>> rank_pool(torch.tensor([[[[1.0, 4.0]]]]), decay=0.5)
    tensor([[3.]])
    """
    ranked = class_maps.flatten(2).sort(dim=-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], device=ranked.device, dtype=ranked.dtype)
    return (ranked * weights).sum(dim=-1) / weights.sum()


@dataclass(frozen=True, kw_only=True)
class MCTformerModelSettings:
    """The numbers of the network; the defaults are those of DeiT-S, which the published one starts from.

    Args:
        patch_size: side of a patch, pixels.
        width: of the tokens.
        depth: layers.
        heads: attention heads, a divisor of the width.
        drop_path: probability of leaving out a branch of the last layer in training, 0…1.
        rank_decay: see `MCTformer`. The published value is for 784 patches; fewer patches want a steeper decay, for
            instance `0.996^(784/256)` = 0.988 for 256.

    Raises:
        ConfigError: a number out of range.
    """

    patch_size: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    drop_path: float = 0.1
    rank_decay: float = 0.996

    def __post_init__(self) -> None:
        check_range(self, "patch_size", "width", "depth", "heads", least=1)
        check_range(self, "drop_path", least=0, below=1)
        check_range(self, "rank_decay", least=0, most=1)
        if self.width % self.heads:
            raise ConfigError(f"heads divides width; found {self.heads} heads for width {self.width}")


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
