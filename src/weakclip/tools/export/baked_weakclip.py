"""WeakCLIP as a plain network from images to logits, its class embeddings computed once and kept: no text tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakclip.modeling import WeakCLIP, mixed_logits


class BakedWeakCLIP(nn.Module):
    """A trained WeakCLIP whose class embeddings are constants.

    Args:
        model: in evaluation mode.
        match_share: share of the match map in the logits; see `mixed_logits`.
    """

    def __init__(self, model: WeakCLIP, *, match_share: float = 0.0) -> None:
        super().__init__()
        self.model, self.match_share = model, match_share
        self.text_embeddings: Tensor
        side = model.clip.image_size
        with torch.no_grad():
            self.register_buffer("text_embeddings", model.text_embeddings().clone())
            probe = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.text_embeddings.device)
            self.patch_size = max(1, side // model.clip.encode_image(probe).grid[0])

    @property
    def smallest_side(self) -> int:
        """Pixels: the pyramid's coarsest level halves the grid of patches."""
        return 2 * self.patch_size

    @property
    def traced_size(self) -> tuple[int, int, int]:
        """Batch, height and width to trace with: no side a multiple of the patch, no grid side even, so that no step is
        left out as one that changes nothing."""
        patch = self.patch_size
        return 2, 5 * patch - patch // 2, 7 * patch - patch // 3

    @property
    def more_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Sizes to check a graph on, where steps change nothing: the encoder's own, multiples of a patch, the least."""
        patch, side = self.patch_size, self.model.clip.image_size
        return (1, side, side), (3, 4 * patch, 6 * patch), (1, self.smallest_side, self.smallest_side)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K, h, w)` of `(B, 3, H, W)` uint8 RGB; each side `smallest_side` or more."""
        return mixed_logits(self.model.segment(images, self.text_embeddings), self.match_share)
