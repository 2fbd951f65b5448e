"""Texts become the tokens that OpenAI's CLIP reads."""

from __future__ import annotations

import oracle_tokenizer as oracle
import pytest
import torch
from parity_cases import FIXTURES

from weakclip.clip.text import clean_text, tokenize
from weakclip.clip.vocabulary import OPENAI_VOCABULARY, load_tokenizer, read_merges, tokenizer_from_merges
from weakclip.errors import DataError

TEXTS = {
    "a photo of a CAT.": "a photo of a cat.",
    "Fußgänger & Fahrräder": "fußgänger & fahrräder",
    "cafe\u0301": "caf\u00e9",
    "rock &amp; roll": "rock & roll",
    "rock &amp;amp; roll": "rock & roll",
    "&lt;b&gt;": "<b>",
    "\u201cquoted\u201d \u2018it\u2019s\u2019": "\"quoted\" 'it's'",
    "we'll don't I'M": "we'll don't i'm",
    "\ufb01sh \uff26\uff35\uff2c\uff2c\u3000width": "fish full width",
    "  a\tb\r\nc\u00a0 d ": "a b c d",
    "a\x00b\ufeff": "ab",
    "\U0001f431 cat \U0001f468\u200d\U0001f469": "\U0001f431 cat \U0001f468\u200d\U0001f469",
    "ΣΑΣ İstanbul": "σας i\u0307stanbul",
    "½ 10th e=mc^2 stop!!!": "½ 10th e=mc^2 stop!!!",
    "日本語 हिन्दी": "日本語 हिन्दी",
    "": "",
    "   ": "",
}


@pytest.mark.parametrize(("text", "cleaned"), TEXTS.items())
def test_texts_are_cleaned_as_openai_does(text, cleaned):
    """What OpenAI's steps (ftfy, HTML entities twice, white space) make of such texts."""
    assert clean_text(text) == cleaned


def test_parity_of_tokens_of_all_kinds_of_texts():
    found = sorted(FIXTURES.glob(f"*/{OPENAI_VOCABULARY}"))
    if not found:
        pytest.skip(f"no {OPENAI_VOCABULARY} in the folders of {FIXTURES}")
    tokenizer, merges = load_tokenizer(str(found[0])), read_merges(found[0])
    for text in (*TEXTS, "<|endoftext|>"[:5], "x" * 60):
        expected = torch.tensor([oracle.token_ids(clean_text(text), merges)])
        assert torch.equal(tokenize(tokenizer, [text], 1000)[0], expected), text


def test_a_text_that_is_too_long_is_named():
    """The one of most tokens, not of most characters."""
    tokenizer = tokenizer_from_merges([])
    with pytest.raises(DataError, match=r"text '日本語日本語' makes 20 tokens; this text tower reads at most 19"):
        tokenize(tokenizer, ["日本語日本語", "a cat on a mat a"], 19)
