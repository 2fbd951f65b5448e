"""FrozenCLIP equals transformers' own CLIP, and nothing thaws it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.clip.vision import attend, default_tap_layers
from weakclip.errors import DataError

TEXTS = ["a photo of a cat", "x", "Füße & bikes!"]


def test_image_features_equal_transformers_at_any_size(make_tiny_clip, device):
    for layers, patch, height, width in [(4, 8, 32, 32), (6, 8, 40, 56), (4, 16, 16, 80)]:
        clip = make_tiny_clip(layers=layers, patch_size=patch).to(device)
        images = torch.rand(2, 3, height, width, device=device)
        features = clip.encode_image(images)
        pixels = clip.normalize(images)
        theirs = clip.model.vision_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
        pooled = clip.model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
        assert features.grid == (height // patch, width // patch)
        assert features.tokens.shape == (2, 1 + features.grid[0] * features.grid[1], clip.embed_dim)
        for layer, ours in zip(clip.tap_layers, features.layers, strict=True):
            expected = theirs.hidden_states[layer][:, 1:].transpose(1, 2).reshape(2, -1, *features.grid)
            torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(features.tokens[:, 0], pooled)


def test_text_features_equal_transformers(tiny_clip):
    tokens = tiny_clip.tokenizer(TEXTS, padding=True, return_tensors="pt").to(tiny_clip.device)
    expected = tiny_clip.model.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(tiny_clip.encode_text(TEXTS), expected)


def test_text_embedding_does_not_depend_on_its_neighbours(tiny_clip):
    together = tiny_clip.encode_text(TEXTS)
    alone = torch.cat([tiny_clip.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone)


def test_end_positions_follow_the_legacy_config(tiny_clip):
    expected = tiny_clip.token_embeddings(TEXTS)[1]
    tiny_clip.model.config.text_config.eos_token_id = 2
    assert torch.equal(tiny_clip.token_embeddings(TEXTS)[1], expected)


def test_gradient_reaches_the_embeddings_and_no_parameter(tiny_clip):
    embeddings, ends = tiny_clip.token_embeddings(TEXTS)
    embeddings = embeddings.clone().requires_grad_()
    tiny_clip.encode_text_embeddings(embeddings, ends).square().sum().backward()
    gradient = embeddings.grad.abs().sum(dim=-1)
    for row, end in enumerate(ends.tolist()):
        assert (gradient[row, : end + 1] > 0).all()
        assert (gradient[row, end + 1 :] == 0).all(), "the causal mask keeps what follows the end out"
    assert all(parameter.grad is None for parameter in tiny_clip.parameters())


def test_no_graph_through_the_image_tower(tiny_clip):
    features = tiny_clip.encode_image(torch.rand(1, 3, 32, 32, device=tiny_clip.device, requires_grad=True))
    assert not features.tokens.requires_grad
    assert not any(layer.requires_grad for layer in features.layers)


def test_training_a_parent_leaves_it_in_evaluation_mode(tiny_clip):
    parent = nn.Sequential(tiny_clip, nn.Dropout())
    parent.train()
    assert parent.training
    assert not any(module.training for module in tiny_clip.modules())
    assert not any(parameter.requires_grad for parameter in tiny_clip.parameters())


def test_integer_and_float_images_are_the_same(tiny_clip):
    images = torch.randint(0, 256, (1, 3, 32, 40), dtype=torch.uint8, device=tiny_clip.device)
    torch.testing.assert_close(tiny_clip.normalize(images), tiny_clip.normalize(images.float() / 255))


def test_pixel_statistics_are_buffers_that_normalise(tiny_clip):
    mean = tiny_clip.pixel_mean.expand(1, 3, 16, 16)
    assert tiny_clip.normalize(mean).abs().max() == 0
    torch.testing.assert_close(tiny_clip.normalize(mean + tiny_clip.pixel_std), torch.ones_like(mean))
    assert {"pixel_mean", "pixel_std"} <= dict(tiny_clip.named_buffers()).keys()


def test_sides_that_are_no_multiple_of_the_patch_are_rounded_up(tiny_clip):
    features = tiny_clip.encode_image(torch.rand(1, 3, 33, 47, device=tiny_clip.device))
    assert features.grid == (5, 6)
    assert features.layers[0].shape[-2:] == (5, 6)


def test_open_attention_equals_the_block(tiny_clip):
    hidden, _ = tiny_clip.embed_image(torch.rand(2, 3, 24, 40, device=tiny_clip.device))
    for block in tiny_clip.model.vision_model.encoder.layers:
        output, attention = attend(block, hidden, block.layer_norm1(hidden))
        torch.testing.assert_close(output, block(hidden, None))
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones_like(attention[..., 0]))
        hidden = output


def test_copies_are_apart_and_equal(tiny_clip):
    clone = copy.deepcopy(tiny_clip)
    assert isinstance(clone, FrozenCLIP)
    assert torch.equal(clone.encode_text(TEXTS), tiny_clip.encode_text(TEXTS))
    clone.model.logit_scale.zero_()
    assert clone.logit_scale == 1 != tiny_clip.logit_scale


def test_moves_to_another_type(tiny_clip):
    double = tiny_clip.double()
    assert double.encode_image(torch.rand(1, 3, 32, 32, device=double.device)).tokens.dtype == torch.float64
    assert double.encode_text(TEXTS).dtype == torch.float64


def test_tapped_layers(make_tiny_clip):
    assert default_tap_layers(12) == (4, 6, 8, 12)
    assert make_tiny_clip(layers=6).tap_layers == (2, 3, 4, 6)
    assert make_tiny_clip(tap_layers=(1, 4)).tap_layers == (1, 4)
    for wrong in [(0, 1), (5,), ()]:
        with pytest.raises(ValueError, match="1 to 4"):
            make_tiny_clip(tap_layers=wrong)


def test_a_text_beyond_the_context_is_an_error(tiny_clip):
    with pytest.raises(DataError, match="at most 77"):
        tiny_clip.encode_text(["x" * 80])
    embeddings, ends = tiny_clip.token_embeddings(["x" * 75])
    longer = torch.cat([embeddings[:, :1].expand(-1, 8, -1), embeddings], dim=1)
    with pytest.raises(DataError, match="prompt included"):
        tiny_clip.encode_text_embeddings(longer, ends + 8)


def test_images_of_another_shape_are_refused(tiny_clip):
    with pytest.raises(ValueError, match="found"):
        tiny_clip.normalize(torch.rand(3, 32, 32))
