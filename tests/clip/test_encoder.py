"""Laws of the protocol: what is no encoder, and what one lacks, is one line where it is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_encoder import RandomEncoder
from torch import nn

from weakclip.clip import BlockEncoder, Encoder, FrozenCLIP, check_encoder, load_clip
from weakclip.clip.encoder import ImageFeatures, check_features, with_blocks
from weakclip.clip.frozen_encoder import weights_fingerprint
from weakclip.datasets.classes import ClassSet
from weakclip.errors import EncoderError
from weakclip.seeds import ClipGradCAM, GradCAMSettings
from weakclip.tools.tag.zero_shot import Tagger, TagSettings

ANIMALS = ClassSet.from_foreground(["cat", "dog"])


def test_frozen_clip_and_a_stranger_are_encoders(tiny_clip: FrozenCLIP) -> None:
    assert isinstance(tiny_clip, Encoder) and isinstance(tiny_clip, BlockEncoder)
    stranger = RandomEncoder()
    assert isinstance(stranger, Encoder) and not isinstance(stranger, BlockEncoder)
    for encoder in (tiny_clip, stranger):
        assert check_encoder(encoder) is encoder
        check_features(encoder, encoder.encode_image(torch.rand(2, 3, 24, 40)))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (nn.Identity(), "Identity is no weakclip.Encoder: it has no context_length, describe, device"),
        (None, "NoneType is no weakclip.Encoder"),
        (RandomEncoder(widths=(8, 8), scales=(1, 1)), "WeakCLIP reads 4 maps of an image; found layer_widths"),
    ],
)
def test_what_is_no_encoder_is_one_line(found: object, words: str) -> None:
    with pytest.raises(EncoderError) as error:
        check_encoder(found)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_object_that_is_no_module_is_refused() -> None:
    class Wrapped:
        def __init__(self) -> None:
            self.encoder = RandomEncoder()

        def __getattr__(self, name: str) -> object:
            return getattr(self.encoder, name)

    with pytest.raises(EncoderError, match=r"it is no torch\.nn\.Module"):
        check_encoder(Wrapped())


def test_features_that_are_not_as_announced_are_one_line() -> None:
    encoder = RandomEncoder(widths=(4, 5, 6, 7), prefix=1)
    features = encoder.encode_image(torch.rand(1, 3, 16, 24))
    for wrong, words in (
        (replace(features, layers=features.layers[::-1]), r"\(7, 6, 5, 4\) channels; layer_widths says \(4, 5, 6, 7\)"),
        (replace(features, layers=features.layers[:3]), "layer_widths says"),
        (replace(features, prefix=0), r"tokens \(1, 7, 16\); \(B, 6, 16\) expected for a grid of 2x3, prefix 0"),
        (replace(features, tokens=features.tokens[..., :8]), "embed_dim 16"),
    ):
        with pytest.raises(EncoderError, match=words) as error:
            check_features(encoder, wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_patches_are_the_tokens_after_the_others(prefix: int) -> None:
    images = torch.rand(2, 3, 16, 24)
    features, plain = RandomEncoder(prefix=prefix).encode_image(images), RandomEncoder().encode_image(images)
    assert features.tokens.shape[1] == prefix + 6
    assert torch.equal(features.patches, plain.tokens)
    torch.testing.assert_close(features.image_embeddings, plain.tokens.mean(dim=1))


def test_the_class_token_stands_for_the_image(tiny_clip: FrozenCLIP) -> None:
    features = tiny_clip.encode_image(torch.rand(2, 3, 32, 32))
    assert torch.equal(features.image_embeddings, features.tokens[:, 0])
    assert ImageFeatures(layers=(), tokens=features.tokens, grid=features.grid).prefix == 1


def test_blocks_give_the_image_tower_apart(tiny_clip: FrozenCLIP) -> None:
    """Run by its parts, the tower gives the tokens that `encode_image` gives; attention by its parts is the block's."""
    encoder, images = with_blocks(tiny_clip, "a test"), torch.rand(1, 3, 32, 40)
    hidden, grid = encoder.embed_image(images)
    for block in encoder.blocks:
        normed = encoder.attention_input(block, hidden)
        output, weights = encoder.attend(block, hidden, normed)
        queries, keys, values = encoder.queries_keys_values(block, normed)
        shares = (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(dim=-1)
        torch.testing.assert_close(shares.mean(dim=1), weights, rtol=1e-4, atol=1e-5)
        mixed = hidden + encoder.attention_output(block, shares @ values)
        torch.testing.assert_close(mixed + block.mlp(block.layer_norm2(mixed)), output, rtol=1e-4, atol=1e-5)
        hidden = encoder.run_block(block, hidden)
        torch.testing.assert_close(hidden, output, rtol=1e-4, atol=1e-5)
    tokens = encoder.project(encoder.final_norm(hidden))
    features = encoder.encode_image(images)
    assert features.grid == grid
    torch.testing.assert_close(tokens, features.tokens, rtol=1e-4, atol=1e-5)


def test_what_an_encoder_lacks_is_said_where_it_is_needed(tiny_clip: FrozenCLIP) -> None:
    stranger = RandomEncoder()
    with pytest.raises(EncoderError, match=r"Grad-CAM needs .* this one has no attend, .*: take seeds\.method=cosine"):
        ClipGradCAM(stranger, ANIMALS)
    tiny_clip.prefix = 0
    with pytest.raises(EncoderError, match="no class token"):
        ClipGradCAM(tiny_clip, ANIMALS, GradCAMSettings(score_from="class_token"))
    stranger.known_texts = frozenset(ANIMALS.names)
    with pytest.raises(EncoderError, match="knows only 3 texts; tagging needs"):
        Tagger(stranger, ANIMALS, TagSettings())


def test_fingerprints_tell_weights_apart(tiny_clip: FrozenCLIP) -> None:
    assert RandomEncoder().fingerprint() == RandomEncoder().fingerprint()
    assert RandomEncoder(seed=1).fingerprint() != RandomEncoder().fingerprint()
    changed = RandomEncoder()
    changed.pixel_std.fill_(0.5)
    assert changed.fingerprint() != RandomEncoder().fingerprint() == weights_fingerprint(RandomEncoder())
    assert len(tiny_clip.fingerprint()) == 16


def test_the_fingerprint_of_the_demo_clip_stays() -> None:
    """Folders of trained models hold it: another value would lock them."""
    assert load_clip("demo").fingerprint() == "9935233ec29532c4"
