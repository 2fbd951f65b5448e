"""An archive of OpenAI's gives OpenAI's tokens, embeddings and logits.

The cases are those of the fixtures, and those that the oracle makes of other sizes
(`tests/reference/oracle_openai.py`).
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import oracle_openai as oracle
import pytest
import torch
import torch.nn.functional as F
from parity_cases import Case, assert_parity, case_params

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.clip.openai_archive import read_openai_state
from weakclip.clip.text import tokenize
from weakclip.clip.vocabulary import OPENAI_VOCABULARY, tokenizer_from_merges

Sizes = oracle.Sizes
MADE = {
    "one-text-and-one-image": Sizes(layers=1, text_layers=1, batch=1, texts=("cat",), context_length=5, embed_dim=8),
    "patches-of-14": Sizes(patch=14, grid=4, width=192, text_width=128, embed_dim=48),
    "patches-of-32": Sizes(patch=32, grid=2, width=64, text_width=192, text_layers=1, context_length=77),
    "twelve-layers": Sizes(layers=12, text_layers=12, grid=7, width=64, embed_dim=64),
    "half-precision": Sizes(stored=torch.float16, layers=2),
    "plain-state-dict": Sizes(script=False, grid=5, patch=16, batch=3),
    "eighty-one-texts": Sizes(texts=tuple(f"class number {number}" for number in range(81)), batch=1),
    "another-grid": Sizes(seen_grid=(4, 6), grid=5),
}


@pytest.fixture(
    scope="module", params=case_params("openai_clip", {k: partial(oracle.write, v) for k, v in MADE.items()})
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return request.param(tmp_path_factory.mktemp("openai_clip"))


@pytest.fixture(scope="module")
def clip(case: Case, tmp_path_factory: pytest.TempPathFactory) -> FrozenCLIP:
    """The archive without pixel statistics; with OpenAI's merge list, or bytes without merges for a made one."""
    try:
        vocabulary = case.file(OPENAI_VOCABULARY)
    except FileNotFoundError:
        vocabulary = tmp_path_factory.mktemp("vocabulary")
        tokenizer_from_merges([]).save_pretrained(vocabulary)
    clip = load_clip(case.file("*.pt"), vocabulary=vocabulary)
    clip.pixel_mean.zero_()
    clip.pixel_std.fill_(1)
    return clip


def test_token_parity(clip: FrozenCLIP, case: Case) -> None:
    texts, expected = case.config["texts"], case.tensors["tokens"]
    for ours, theirs in zip(tokenize(clip.tokenizer, texts, clip.context_length)[0], expected, strict=True):
        count = int(theirs.argmax()) + 1  # OpenAI pads with 0 after the end token, which has the highest id
        assert torch.equal(ours[:count], theirs[:count])
    assert torch.equal(clip.token_embeddings(texts)[1], expected.argmax(dim=-1))


def test_embeddings_and_logits_parity(clip: FrozenCLIP, case: Case) -> None:
    expected = case.tensors
    text, tokens = clip.encode_text(case.config["texts"]), clip.encode_image(expected["image"]).tokens
    assert_parity(text, expected["text_embeds"])
    assert_parity(tokens[:, 0], expected["image_embeds"])
    if "image_tokens" in expected:
        assert_parity(tokens, expected["image_tokens"])
    logits = clip.logit_scale * F.normalize(tokens[:, 0], dim=-1) @ F.normalize(text, dim=-1).T
    assert_parity(logits, expected["logits_per_image"])


def test_parity_of_text_embeddings_holds_one_by_one(clip: FrozenCLIP, case: Case) -> None:
    """Whatever texts stand beside it, and however far they are padded."""
    for text, expected in zip(case.config["texts"][:5], case.tensors["text_embeds"], strict=False):
        assert_parity(clip.encode_text([text])[0], expected)


def test_every_tensor_of_a_made_archive_is_read(clip: FrozenCLIP, case: Case) -> None:
    """Of a TorchScript archive as of a plain file: as many numbers as the model has."""
    state = read_openai_state(case.file("*.pt"))
    assert sum(value.numel() for value in state.values()) == sum(value.numel() for value in clip.model.parameters())


def test_the_made_archives_are_of_both_kinds(tmp_path: Path) -> None:
    for name, script in (("script", True), ("plain", False)):
        oracle.write(Sizes(layers=1, text_layers=1, script=script), tmp_path / name)
        with zipfile.ZipFile(tmp_path / name / "archive.pt") as archive:
            assert any(entry.endswith("/constants.pkl") for entry in archive.namelist()) == script
