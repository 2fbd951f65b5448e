"""An encoder with random weights that is no CLIP: any number of tokens before the patches, four maps of any widths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from weakclip.clip import FrozenEncoder, ImageFeatures

PATCH = 8


class RandomEncoder(FrozenEncoder):
    """Convolutions of 8x8 pixels for every map, and a table of bytes for texts.

    Args:
        widths: of the four maps.
        scales: of the four maps.
        prefix: tokens before the patches.
        position: before which token embedding the learned prompt stands.
        seed: of the weights.
    """

    embed_dim = 16
    text_width = 12
    context_length = 40

    def __init__(
        self,
        *,
        widths: Sequence[int] = (8, 8, 8, 8),
        scales: Sequence[float] = (1, 1, 1, 1),
        prefix: int = 0,
        position: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(source=f"random numbers {seed}", pixel_mean=(0.5, 0.5, 0.5))
        self.layer_widths, self.layer_scales = tuple(widths), tuple(scales)
        self.prompt_position = position
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleList(nn.Conv2d(3, width, PATCH, stride=PATCH) for width in widths)
            self.tokens = nn.Conv2d(3, self.embed_dim, PATCH, stride=PATCH)
            self.before = nn.Parameter(torch.randn(prefix, self.embed_dim))
            self.words = nn.Embedding(256, self.text_width)
            self.text = nn.Linear(self.text_width, self.embed_dim)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> ImageFeatures:
        pixels = self.normalize(images)
        grid = (-(-pixels.shape[2] // PATCH), -(-pixels.shape[3] // PATCH))
        pixels = functional.interpolate(pixels, size=(PATCH * grid[0], PATCH * grid[1]))
        layers = []
        for convolution, scale in zip(self.maps, self.layer_scales, strict=True):
            size = [max(1, round(scale * side)) for side in grid]
            layers.append(functional.interpolate(convolution(pixels), size=size))
        patches = self.tokens(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.before.expand(len(images), -1, -1), patches], dim=1)
        return ImageFeatures(layers=tuple(layers), tokens=tokens, grid=grid, prefix=len(self.before))

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [list(text.encode()) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        return self.words(ids).detach(), torch.tensor([len(row) - 1 for row in rows], device=self.device)

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        read = torch.arange(embeddings.shape[1], device=embeddings.device) <= end_positions[:, None]
        mean = (embeddings * read[..., None]).sum(dim=1) / read.sum(dim=1, keepdim=True)
        return self.text(mean).tanh()
