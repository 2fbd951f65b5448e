"""The frozen text tower, driven from token embeddings: `transformers`' own text models take only token ids."""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from weakclip.clip.recomputation import run_part
from weakclip.errors import DataError

_LEGACY_END_TOKEN = 2  # older CLIP configs carry this wrong id; transformers then takes the highest id of the row
_KEPT_BY_BLOCK = 14
"""Inner results that a block keeps for the backward pass, in sizes of its input; counted."""

_COMPATIBLE = re.compile("[\uff01-\uff9f\u3000\ufb00-\ufb06\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3]")
"""Full-width forms and ligatures, which ftfy writes as the letters that they stand for."""
_QUOTES = str.maketrans(
    {**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")


def clean_text(text: str) -> str:
    """A text as OpenAI's tokenizer cleans it before it looks for words (openai/CLIP, clip/simple_tokenizer.py).

    HTML entities are decoded twice; full-width forms, ligatures and curly quotes become plain; control characters go;
    white space becomes single spaces; letters become small. OpenAI uses ftfy, which also repairs text that was decoded
    in the wrong encoding (`schÃ¶n`): that is not done here.

    >>> clean_text("Rock &amp;amp; \u201croll\u201d")
    'rock & "roll"'
    """
    for _ in range(2):
        text = html.unescape(text)
    text = _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text).translate(_QUOTES)
    text = unicodedata.normalize("NFC", _CONTROLS.sub("", text))
    return " ".join(text.split()).lower()


def single_spaces(text: str) -> str:
    """A text with white space made single spaces, for tokenizers that tell capitals apart."""
    return " ".join(text.split())


def lower_case(text: str) -> str:
    """A text in small letters with single spaces, as the texts of SigLIP's and TIPS's training."""
    return single_spaces(text).lower()


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    context_length: int,
    clean: Callable[[str], str] = clean_text,
) -> tuple[Tensor, Tensor]:
    """Token ids with the tokenizer's start and end tokens, padded on the right to the longest text.

    Args:
        tokenizer: the one that goes with the text tower.
        texts: `K` texts.
        context_length: the most tokens that the text tower reads.
        clean: what is done to a text first.

    Returns:
        Ids `(K, L)` int64, and how many tokens of each row are no padding, `(K,)` int64.

    Raises:
        DataError: a text that is too long; it is never cut silently.
    """
    rows: list[list[int]] = tokenizer([clean(text) for text in texts])["input_ids"]
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    if longest > context_length:
        raise DataError(
            f"text {texts[lengths.index(longest)]!r} makes {longest} tokens; this text tower reads at most "
            f"{context_length}: shorten the text"
        )
    padding = tokenizer.pad_token_id or 0  # on the right whatever the tokenizer's own side is: so all towers learned
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    return ids, torch.tensor(lengths)


def end_positions(ids: Tensor, end_token: int) -> Tensor:
    """Where each text ends, as `transformers` finds it: the first end token of the row.

    Args:
        ids: `(K, L)` token ids.
        end_token: the text config's `eos_token_id`.

    Returns:
        `(K,)` int64.
    """
    if end_token == _LEGACY_END_TOKEN:
        return ids.argmax(dim=-1)
    return (ids == end_token).int().argmax(dim=-1)


def run_text_tower(model: Any, embeddings: Tensor, ends: Tensor) -> Tensor:
    """Projected text embeddings from token embeddings; differentiable in `embeddings`.

    Args:
        model: a `CLIPModel`, or another with its names.
        embeddings: `(K, L, C)` token embeddings without positions.
        ends: `(K,)` positions of the end tokens.

    Returns:
        `(K, E)`, not normalised.

    Raises:
        DataError: more tokens than CLIP has positions for.
    """
    count, length, _ = embeddings.shape
    check_length(length, model.text_model.embeddings.position_embedding.num_embeddings)
    lowest = torch.finfo(embeddings.dtype).min
    mask = torch.full((length, length), lowest, dtype=embeddings.dtype, device=embeddings.device).triu(1)
    hidden = run_text_blocks(model.text_model, embeddings, mask.expand(count, 1, length, length))
    projected: Tensor = model.text_projection(hidden[torch.arange(count, device=hidden.device), ends])
    return projected


def run_text_blocks(tower: Any, embeddings: Tensor, mask: Tensor | None) -> Tensor:
    """The tower from token embeddings `(K, L, C)` to its final norm, `(K, L, C)`.

    Args:
        tower: `text_model`.
        embeddings: without positions.
        mask: `(K, 1, L, L)` float, added to the attention's scores; None where every token sees all.
    """
    hidden: Tensor = tower.embeddings(inputs_embeds=embeddings)
    needed = (
        len(tower.encoder.layers) * _KEPT_BY_BLOCK * hidden.numel() * hidden.element_size()
    )  # grows with the classes
    for block in tower.encoder.layers:
        hidden = run_part(functools.partial(block, attention_mask=mask), hidden, needed=needed)
    normed: Tensor = tower.final_layer_norm(hidden)
    return normed


def check_length(length: int, context: int) -> None:
    """Whether a text, its prompt included, fits the text tower.

    Raises:
        DataError: it does not.
    """
    if length > context:
        raise DataError(
            f"a text of {length} tokens, prompt included; this text tower reads at most {context}: "
            "shorten the class names or the prompt"
        )
