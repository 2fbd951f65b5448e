"""Families of Google: no projection after the image tower, texts in small letters that are read in both directions."""

from __future__ import annotations

from torch import Tensor

from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.text import lower_case


class BothWays(FrozenCLIP):
    """Parts that SigLIP and TIPSv2 share; see `FrozenCLIP`.

    The towers meet at the width of the image tower. A text has no start token, so that a learnable prompt comes first.
    """

    prompt_position = 0
    clean_text = staticmethod(lower_case)

    @property
    def embed_dim(self) -> int:
        """`E`, width of the joint embedding: that of the image tower."""
        return self.vision_width

    def end_positions(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The last token of each text that is no padding, `(K,)`."""
        return lengths - 1
