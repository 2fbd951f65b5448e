"""MetaCLIP 2: CLIP's layout with texts of many languages.

References:
    Chuang et al., "MetaCLIP 2: A Worldwide Scaling Recipe", NeurIPS 2025.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.text import single_spaces


class FrozenMetaCLIP2(FrozenCLIP):
    """MetaCLIP 2 as a fixed encoder; see `FrozenCLIP`.

    Its tokenizer (XLM-V) tells capitals apart, so that texts keep them. Every text ends at its first end token: 2 is
    the true id of that here, and not the sign of an old configuration that it is for CLIP.
    """

    family = "MetaCLIP 2"
    clean_text = staticmethod(single_spaces)

    @staticmethod
    def network() -> Any:
        """`MetaClip2Model`."""
        from transformers import MetaClip2Model

        return MetaClip2Model

    def end_positions(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The first end token of each row, `(K,)`."""
        return (ids == self._text_config.eos_token_id).int().argmax(dim=-1)
