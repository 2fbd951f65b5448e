"""TIPSv2: patches that meet the texts as they are, without any projection.

The image tower has a class token, `R` more tokens (registers; 1 in the released weights) and layer scales. Its pixels
are 0…1, not normalised. Positions are resized bilinearly with antialiasing. Texts are read in both directions, padding
left out, and pooled by the mean of their tokens. A score is the softmax of cosine / temperature.

References:
    Maninis et al., "TIPS: Text-Image Pretraining with Spatial awareness", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from weakclip.clip.families.both_ways import BothWays
from weakclip.clip.text import check_length, run_text_blocks
from weakclip.clip.vision import interpolate_positions
from weakclip.errors import WeightsError

SINCE = "5.14"
"""The first transformers with the network."""


class FrozenTIPSv2(BothWays):
    """TIPSv2 as a fixed encoder; see `FrozenCLIP`. `position_interpolation` is not used."""

    family = "TIPSv2"
    usual_statistics = ((0.0,) * 3, (1.0,) * 3)

    @staticmethod
    def network() -> Any:
        """`Tipsv2Model`.

        Raises:
            WeightsError: a transformers without it.
        """
        try:
            from transformers import Tipsv2Model
        except ImportError:
            found = transformers.__version__
            raise WeightsError(
                f"TIPSv2 needs transformers {SINCE} or newer; found {found}: pip install -U 'transformers>={SINCE},<6'"
            ) from None
        return Tipsv2Model

    @property
    def prefix(self) -> int:  # type: ignore[override]
        """The class token and the registers."""
        return 1 + int(self._vision_config.num_register_tokens)

    @property
    def logit_scale(self) -> float:  # type: ignore[override]
        """Factor of cosine similarities before a softmax: 1 / temperature."""
        return 1 / float(self.model.temperature)

    def embed_pixels(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels 0…1 as input of the first block, `(B, 1+R+hw, D)`; registers have no position."""
        parts = self._network.vision_model.embeddings
        class_token, registers = (each.expand(len(pixels), -1, -1) for each in (parts.cls_token, parts.register_tokens))
        placed = torch.cat([class_token, parts.patch_embeddings(pixels)], dim=1) + self.positions(grid)
        return torch.cat([placed[:, :1], registers, placed[:, 1:]], dim=1)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings `(1+hw, D)` for a patch grid `(h, w)`."""
        table = self.model.vision_model.embeddings.position_embeddings[0]
        return interpolate_positions(table, grid, "bilinear", antialias=True)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the image tower, the first one first."""
        return list(self._network.vision_model.encoder.layer)

    def attention_input(self, block: Any, hidden: Tensor) -> Tensor:
        """A block's input `(B, N, D)` after its first norm."""
        normed: Tensor = block.norm1(hidden)
        return normed

    @staticmethod
    def attend(block: Any, hidden: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """The output of a block and its attention, `(B, N, D)` and `(B, N, N)`; see `BlockEncoder`."""
        queries, keys, values = FrozenTIPSv2.queries_keys_values(block, normed)
        weights = ((queries * block.attention.scaling) @ keys.transpose(-1, -2)).softmax(dim=-1)
        hidden = hidden + FrozenTIPSv2.attention_output(block, weights @ values)
        return hidden + block.layer_scale2(block.mlp(block.norm2(hidden))), weights.mean(dim=1)

    @staticmethod
    def queries_keys_values(block: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `(B, heads, N, d)`, queries not scaled."""
        attention = block.attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (
            projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for projection in projections
        )
        return queries, keys, values

    @staticmethod
    def attention_output(block: Any, mixed: Tensor) -> Tensor:
        """Mixed values `(B, heads, N, d)` through output projection and layer scale, `(B, N, D)`."""
        output: Tensor = block.layer_scale1(block.attention.o_proj(mixed.transpose(1, 2).flatten(2)))
        return output

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm after the last block."""
        normed: Tensor = self.model.vision_model.layernorm(hidden)
        return normed

    def project(self, normed: Tensor) -> Tensor:
        """Normed tokens as they are: they lie in the space of the texts."""
        return normed

    def encode_text_embeddings(self, embeddings: Tensor, end_positions: Tensor) -> Tensor:
        """Texts from token embeddings `(K, L, C)`; what follows an end position is not read. See `Encoder`.

        Raises:
            DataError: more tokens than the tower has positions for.
        """
        length = embeddings.shape[1]
        check_length(length, self.context_length)
        read = torch.arange(length, device=embeddings.device) <= end_positions[:, None]
        lowest = torch.finfo(embeddings.dtype).min
        mask = torch.zeros(read.shape, dtype=embeddings.dtype, device=embeddings.device).masked_fill(~read, lowest)
        hidden = run_text_blocks(self._network.text_model, embeddings, mask[:, None, None].expand(-1, 1, length, -1))
        return (hidden * read[..., None]).sum(dim=1) / read.sum(dim=1, keepdim=True)

    def telling_weights(self) -> tuple[Tensor, ...]:
        """The last projection of each tower's first block."""
        vision, text = self.model.vision_model.encoder.layer[0], self.model.text_model.encoder.layers[0]
        return vision.attention.o_proj.weight, text.mlp.fc2.weight
