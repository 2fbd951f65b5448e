"""SigLIP, and SigLIP 2 of fixed size (FixRes), which has the same network.

The image tower has no class token. A learned probe pools the patches: one attention over all of them, then
`x + mlp(norm(x))`. A single patch reaches the space of the texts as if the probe saw it and nothing else, by the
attention's value and output projections:

    project(p) = x + mlp(norm(x))        x = W_out (W_value p + b_value) + b_out

Texts are read in both directions and pooled at the last position, padding or not: they are always padded to the whole
context, on the right, as in training. A score is sigmoid(scale · cosine + bias); among the classes of an image and the
background words, where one has to win, it is the softmax of scale · cosine.

References:
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.
    Tschannen et al., "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding,
    Localization, and Dense Features", 2025.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.clip.families.both_ways import BothWays
from weakclip.clip.text import check_length, run_text_blocks
from weakclip.clip.vision import interpolate_positions


class FrozenSigLIP(BothWays):
    """SigLIP or SigLIP 2 FixRes as a fixed encoder; see `FrozenCLIP`."""

    family = "SigLIP"
    usual_statistics = ((0.5,) * 3, (0.5,) * 3)
    prefix = 0

    @staticmethod
    def network() -> Any:
        """`SiglipModel`."""
        from transformers import SiglipModel

        return SiglipModel

    @property
    def logit_bias(self) -> float:  # type: ignore[override]
        """The offset of a scaled cosine before the sigmoid."""
        return float(self.model.logit_bias)

    def embed_pixels(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised pixels as input of the first block, `(B, hw, D)`."""
        patches: Tensor = self._network.vision_model.embeddings.patch_embedding(pixels)
        return patches.flatten(2).transpose(1, 2) + self.positions(grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings `(hw, D)` for a patch grid `(h, w)`."""
        table = self.model.vision_model.embeddings.position_embedding.weight
        return interpolate_positions(table, grid, self.position_interpolation, prefix=0)

    def project(self, normed: Tensor) -> Tensor:
        """Normed tokens `(…, D)` into the space of the texts, `(…, E)`, each as if the probe saw it and no other."""
        head = self._network.vision_model.head
        attention = head.attention
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        seen = attention.out_proj(F.linear(normed, weight, bias))
        projected: Tensor = seen + head.mlp(head.layernorm(seen))
        return projected

    def pool(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """The whole image, `(B, E)`: the probe's attention over all patches."""
        pooled: Tensor = self._network.vision_model.head(normed)
        return pooled

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Texts from token embeddings `(K, L, C)`, padded to the whole context; see `Encoder`.

        Raises:
            DataError: more tokens than the tower has positions for.
        """
        count, length, width = embeddings.shape
        check_length(length, self.context_length)
        tower, padding = self._network.text_model, torch.tensor(self.tokenizer.pad_token_id or 0, device=self.device)
        filler = tower.embeddings.token_embedding(padding).to(embeddings.dtype)
        whole = torch.cat([embeddings, filler.expand(count, self.context_length - length, width)], dim=1)
        projected: Tensor = tower.head(run_text_blocks(tower, whole, None)[:, -1])
        return projected

    def telling_weights(self) -> tuple[Tensor, ...]:
        """The projections that end the two towers."""
        return self.model.vision_model.head.mlp.fc2.weight, self.model.text_model.head.weight
