"""The frozen text tower, driven from token embeddings: `transformers`' own text models take only token ids."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPModel, PreTrainedTokenizerBase

from weakclip.errors import DataError

_LEGACY_END_TOKEN = 2  # older CLIP configs carry this wrong id; transformers then takes the highest id of the row


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


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context_length: int) -> Tensor:
    """Token ids with start and end tokens, padded to the longest text.

    Args:
        tokenizer: CLIP's.
        texts: `K` texts; `clean_text` is applied.
        context_length: the most tokens that the text tower reads.

    Returns:
        `(K, L)` int64.

    Raises:
        DataError: a text that is too long; it is never cut silently.
    """
    cleaned = [clean_text(text) for text in texts]
    ids: Tensor = tokenizer(cleaned, padding=True, return_tensors="pt")["input_ids"]
    if ids.shape[1] > context_length:
        lengths = [tokenizer([text], padding=True, return_tensors="pt")["input_ids"].shape[1] for text in cleaned]
        longest = texts[lengths.index(max(lengths))]
        raise DataError(
            f"text {longest!r} makes {ids.shape[1]} tokens; this CLIP reads at most {context_length}: shorten the text"
        )
    return ids


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


def run_text_tower(model: CLIPModel, embeddings: Tensor, ends: Tensor) -> Tensor:
    """Projected text embeddings from token embeddings; differentiable in `embeddings`.

    Args:
        model: the CLIP.
        embeddings: `(K, L, C)` token embeddings without positions.
        ends: `(K,)` positions of the end tokens.

    Returns:
        `(K, E)`, not normalised.

    Raises:
        DataError: more tokens than CLIP has positions for.
    """
    tower = model.text_model
    count, length, _ = embeddings.shape
    context = tower.embeddings.position_embedding.num_embeddings
    if length > context:
        raise DataError(
            f"a text of {length} tokens, prompt included; this CLIP reads at most {context}: "
            "shorten the class names or the prompt"
        )
    hidden = tower.embeddings(inputs_embeds=embeddings)
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device)
    mask = mask.triu(1).expand(count, 1, length, length)
    for block in tower.encoder.layers:  # computed again in the backward pass: its memory grows with the classes
        hidden = checkpoint(block, hidden, attention_mask=mask, use_reentrant=False)
    hidden = tower.final_layer_norm(hidden)
    return model.text_projection(hidden[torch.arange(count, device=hidden.device), ends])
