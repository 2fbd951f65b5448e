"""Weights kept in autocast's type: the same numbers bit for bit, made once, and made anew when the weights change."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.clip.cast_weights import CastWeights
from weakclip.seeds.patch_text import PatchTextSettings, patch_tokens


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8)


def results(clip: FrozenCLIP, images: torch.Tensor) -> list[torch.Tensor]:
    """Both towers under autocast, and what reads the blocks one by one."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = clip.encode_image(images)
        tokens = patch_tokens(clip, images, PatchTextSettings(layers=1, attention_layers=1))
        return [*features.layers, features.tokens, clip.encode_text(["a cat"]), tokens.tokens, tokens.attention]


def test_both_towers_give_the_same_numbers_bit_for_bit(
    tiny_clip: FrozenCLIP, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = results(tiny_clip, images)
    monkeypatch.setattr(CastWeights, "of", lambda self, network, dtype: network)
    for one, other in zip(kept, results(tiny_clip, images), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype


def test_gradients_of_the_words_are_the_same_bit_for_bit(
    tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, ends = tiny_clip.token_embeddings(["a cat", "dog"])
    found = []
    for _ in range(2):
        leaf = embeddings.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            tiny_clip.encode_text_embeddings(leaf, ends).float().square().sum().backward()
        found.append(leaf.grad)
        monkeypatch.setattr(CastWeights, "of", lambda self, network, dtype: network)
    assert torch.equal(found[0], found[1])


def test_the_copy_is_made_once_and_shares_all_that_is_not_cast(tiny_clip: FrozenCLIP, images: torch.Tensor) -> None:
    made: list[Any] = []
    cast = CastWeights()
    for _ in range(2):
        made.append(cast.of(tiny_clip.model, torch.bfloat16))
    assert made[0] is made[1]
    assert made[0].vision_model.post_layernorm.weight is tiny_clip.model.vision_model.post_layernorm.weight
    assert made[0].visual_projection.weight.dtype == torch.bfloat16
    assert tiny_clip.model.visual_projection.weight.dtype == torch.float32
    names = set(tiny_clip.state_dict())
    results(tiny_clip, images)
    assert set(tiny_clip.state_dict()) == names, "the copy is no part of the module"


def test_changed_weights_are_cast_anew(tiny_clip: FrozenCLIP, images: torch.Tensor) -> None:
    clip = copy.deepcopy(tiny_clip)
    before = results(clip, images)
    with torch.no_grad():
        clip.model.visual_projection.weight.mul_(2)
    torch.testing.assert_close(results(clip, images)[-4], 2 * before[-4])
    assert torch.equal(results(tiny_clip, images)[-4], before[-4])


def test_nothing_of_it_is_pickled() -> None:
    cast, network = CastWeights(), nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    cast.of(network, torch.bfloat16)
    for other in (pickle.loads(pickle.dumps(cast)), copy.deepcopy(cast)):
        assert other._made is None and other._making is not cast._making
