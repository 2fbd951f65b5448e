"""The settings of the section `clip:`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Which frozen CLIP.

    Args:
        source: "demo", a folder in transformers' format, an OpenAI `.pt` archive, or an id on the Hugging Face hub, of
            a CLIP or another family of `weakclip.clip.families`; or `python:MODULE:FUNCTION`, code of one's own that
            makes an encoder: see `weakclip.clip.load_encoder`.
        vocabulary: where the tokenizer comes from if `source` has none; None otherwise.
    """

    source: str = "openai/clip-vit-base-patch16"
    vocabulary: str | None = None
