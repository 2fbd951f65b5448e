"""Laws of the learnable prompt."""

from __future__ import annotations

import pytest
import torch

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError
from weakclip.modeling import LearnablePrompt

CLASSES = ClassSet.from_foreground(["cat", "dining table"])


@pytest.mark.parametrize("length", [0, 1, 8])
def test_prompt_stands_between_start_token_and_words(tiny_clip: FrozenCLIP, length: int) -> None:
    words, ends = tiny_clip.token_embeddings(CLASSES.names)
    prompt = LearnablePrompt.for_classes(tiny_clip, CLASSES, length=length)
    embeddings, end_positions = prompt()
    assert embeddings.shape == (3, length + words.shape[1], tiny_clip.text_width)
    assert torch.equal(embeddings[:, 0], words[:, 0])
    assert torch.equal(embeddings[:, 1 + length :], words[:, 1:])
    for row in embeddings:
        assert torch.equal(row[1 : 1 + length], prompt.vectors)
    assert torch.equal(end_positions, ends + length)


def test_without_vectors_the_text_is_the_class_name(tiny_clip: FrozenCLIP) -> None:
    prompt = LearnablePrompt.for_classes(tiny_clip, CLASSES, length=0)
    torch.testing.assert_close(
        tiny_clip.encode_text_embeddings(*prompt()), tiny_clip.encode_text(CLASSES.names), rtol=1e-4, atol=1e-5
    )


def test_gradient_reaches_the_vectors_through_the_frozen_tower(tiny_clip: FrozenCLIP) -> None:
    prompt = LearnablePrompt.for_classes(tiny_clip, CLASSES)
    tiny_clip.encode_text_embeddings(*prompt()).square().sum().backward()
    assert prompt.vectors.grad is not None
    assert (prompt.vectors.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in tiny_clip.parameters())
    assert list(prompt.state_dict()) == ["vectors"], "class words come from CLIP and are not stored twice"


def test_a_prompt_longer_than_the_context_is_an_error(tiny_clip: FrozenCLIP) -> None:
    with pytest.raises(DataError, match="shorten the prompt"):
        LearnablePrompt.for_classes(tiny_clip, CLASSES, length=tiny_clip.context_length)
