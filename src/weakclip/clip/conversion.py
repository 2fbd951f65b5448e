"""Checkpoints in OpenAI's names that do not say their activation and heads, as folders that do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from weakclip.clip.openai_archive import OPENAI_HEAD_WIDTH, convert_openai_state, read_openai_state
from weakclip.clip.vocabulary import OPENAI_TOKENIZER, load_tokenizer
from weakclip.errors import WeightsError

OPENAI_WIDTHS = (768, 1024)
"""Of OpenAI's ViT image towers, whose heads are 64 wide; so are open_clip's of these widths (its model_configs)."""


def convert_checkpoint(
    source: Path | str,
    folder: Path | str,
    *,
    activation: Literal["gelu", "quick_gelu"],
    head_width: int | None = None,
    vocabulary: Path | str | None = None,
) -> None:
    """Write a checkpoint of open_clip, or a plain one of OpenAI's names, as a folder of transformers.

    Args:
        source: the file.
        folder: a new folder, with weights, `config.json` and tokenizer; `load_clip` takes it.
        activation: of both towers. open_clip's models have gelu, but those whose names end in `-quickgelu`, which
            began as OpenAI's.
        head_width: of the image tower; None for 64, where the tower is as wide as one of OpenAI's. open_clip: 80 of
            ViT-H-14, 88 of ViT-g-14, 104 of ViT-bigG-14 (its model_configs).
        vocabulary: the tokenizer; see `load_clip`.

    Raises:
        WeightsError: not such a file, a folder that is there already, or a width that needs `head_width`.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise WeightsError(f"{folder}: is there already; give a new folder")
    if activation not in ("gelu", "quick_gelu"):
        raise WeightsError(f"activation: 'gelu' or 'quick_gelu' expected; found {activation!r}")
    state = read_openai_state(source)
    width = state["visual.conv1.weight"].shape[0]
    if head_width is None and width not in OPENAI_WIDTHS:
        raise WeightsError(f"{source}: an image tower {width} wide, which OpenAI has none of; name its head_width too")
    try:
        model = convert_openai_state(state, activation=activation, head_width=head_width or OPENAI_HEAD_WIDTH)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    tokenizer = load_tokenizer(str(vocabulary or OPENAI_TOKENIZER))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
