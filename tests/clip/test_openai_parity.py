"""An archive of OpenAI's gives OpenAI's tokens, embeddings and logits."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from weakclip.clip import load_clip
from weakclip.clip.text import tokenize
from weakclip.clip.vocabulary import OPENAI_VOCABULARY


@pytest.fixture(scope="module")
def case(shared_fixtures):
    """The archive as a FrozenCLIP without pixel statistics, the fixture's texts, and what OpenAI's code computes."""
    folder = shared_fixtures / "openai_clip"
    if not folder.is_dir():
        pytest.skip(f"no OpenAI CLIP fixture at {folder}")
    (archive,) = folder.glob("*.pt")
    clip = load_clip(archive, vocabulary=folder / OPENAI_VOCABULARY)
    clip.pixel_mean.zero_()
    clip.pixel_std.fill_(1)
    texts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["texts"]
    return clip, texts, load_file(folder / "expected.safetensors")


def test_parity_of_tokens(case):
    clip, texts, expected = case
    ids = tokenize(clip.tokenizer, texts, clip.context_length)
    for ours, theirs in zip(ids, expected["tokens"], strict=True):
        count = int(theirs.argmax()) + 1  # OpenAI pads with 0 after the end token, which has the highest id
        assert torch.equal(ours[:count], theirs[:count])
    assert torch.equal(clip.token_embeddings(texts)[1], expected["tokens"].argmax(dim=-1))


def test_parity_of_embeddings_and_logits(case):
    clip, texts, expected = case
    text = clip.encode_text(texts)
    image = clip.encode_image(expected["image"]).tokens[:, 0]
    torch.testing.assert_close(text, expected["text_embeds"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image, expected["image_embeds"], rtol=1e-4, atol=1e-5)
    logits = clip.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    torch.testing.assert_close(logits, expected["logits_per_image"], rtol=1e-4, atol=1e-5)
