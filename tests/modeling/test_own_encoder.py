"""The model around encoders that are no CLIP: maps of unequal width and size, any tokens before the patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_encoder import RandomEncoder
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, DataError, EncoderError, WeightsError
from weakclip.modeling import (
    LearnablePrompt,
    ModelSettings,
    PyramidAdapter,
    ResizedPyramid,
    TextGuidedDecoder,
    UnguidedDecoder,
    load_weakclip,
    match_pixels,
    save_weakclip,
)
from weakclip.modeling.train import LossSettings, WeakCLIPLoss
from weakclip.study.parts import without_adapter, without_co_attention, without_text_guidance

SMALL = ModelSettings(
    prompt_length=2, co_attention_width=8, co_attention_heads=2, co_attention_layers=1, decoder_channels=8
)
ANIMALS = ClassSet.from_foreground(["cat", "dog"])
WIDTHS = (4, 6, 10, 12)
SCALES = [(1, 1, 1, 1), (4, 2, 1, 0.5), (2, 2, 1, 1), (0.5, 4, 0.25, 2)]
COMPOSERS = (ModelSettings.build, without_adapter, without_co_attention, without_text_guidance)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("grid", [(4, 12), (8, 4)])
def test_every_map_becomes_its_level(scales: tuple[float, ...], grid: tuple[int, int]) -> None:
    layers = [
        torch.randn(2, width, int(scale * grid[0]), int(scale * grid[1]))
        for width, scale in zip(WIDTHS, scales, strict=True)
    ]
    for pyramid in (PyramidAdapter(WIDTHS, scales=scales), ResizedPyramid(scales)):
        shapes = [tuple(level.shape) for level in pyramid(layers)]
        sizes = [(int(level * grid[0]), int(level * grid[1])) for level in (4, 2, 1, 0.5)]
        assert shapes == [(2, width, *size) for width, size in zip(WIDTHS, sizes, strict=True)]


def test_maps_at_their_own_size_need_no_doubling() -> None:
    """What is left are the norms: two numbers a channel."""
    assert count(PyramidAdapter(WIDTHS, scales=(4, 2, 1, 0.5))) == 2 * sum(WIDTHS)


@pytest.mark.parametrize("scales", SCALES)
def test_put_off_doublings_give_the_same_logits(scales: tuple[float, ...]) -> None:
    """The decoder reads levels before and after their last doubling alike, whatever their widths."""
    layers = [torch.randn(1, width, int(4 * s), int(8 * s)) for width, s in zip(WIDTHS, scales, strict=True)]
    adapter, decoder = PyramidAdapter(WIDTHS, scales=scales).eval(), TextGuidedDecoder(WIDTHS, 3, channels=8).eval()
    guide = torch.randn(1, 3, 4, 8)
    put_off, done = decoder(adapter.levels(layers), guide), decoder(adapter(layers), guide)
    torch.testing.assert_close(put_off, done, rtol=1e-4, atol=1e-5)
    assert UnguidedDecoder(WIDTHS, 3, channels=8)(adapter(layers), guide).shape == (1, 3, 16, 32)


@pytest.mark.parametrize("scale", [3, 0, -1])
def test_scales_are_powers_of_two(scale: float) -> None:
    with pytest.raises(EncoderError, match="layer_scales are powers of two"):
        PyramidAdapter(WIDTHS, scales=(scale, 1, 1, 1))


def test_one_width_and_four_equal_ones_are_the_same_model() -> None:
    for make in (PyramidAdapter, lambda width: TextGuidedDecoder(width, 3, channels=8)):
        torch.manual_seed(0)
        one = make(8).state_dict()
        torch.manual_seed(0)
        four = make((8, 8, 8, 8)).state_dict()
        assert list(one) == list(four)
        assert all(torch.equal(one[name], four[name]) for name in one)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_match_map_is_of_the_patches(prefix: int) -> None:
    """Other tokens before the patches change no similarity, and no patch is lost."""
    patches, text = torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    tokens = torch.cat([torch.randn(2, prefix, 16), patches], dim=1)
    found = match_pixels(tokens, text, (2, 3), prefix=prefix)
    expected = torch.cosine_similarity(text[:, :, None], patches[:, None], dim=-1)
    torch.testing.assert_close(found, expected.unflatten(-1, (2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compose", COMPOSERS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("scales", SCALES[:2])
def test_every_trained_parameter_gets_a_gradient(compose: object, prefix: int, scales: tuple[float, ...]) -> None:
    encoder = RandomEncoder(widths=WIDTHS, scales=scales, prefix=prefix)
    model = compose(SMALL, encoder, ANIMALS).train()
    frozen = {name: value.clone() for name, value in encoder.state_dict().items()}
    masks = torch.randint(0, 3, (2, 40, 32), dtype=torch.uint8)
    batch = {"image": torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8), "mask": masks}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    WeakCLIPLoss(LossSettings(size=8))(model, batch)["loss"].backward()
    optimiser.step()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert not [name for name in trained if name.startswith("clip.")]
    assert not [name for name, each in trained.items() if each.grad is None or not each.grad.abs().sum() > 0]
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in frozen.items())
    output = model(batch["image"])
    assert output.logits.shape == (2, 3, 20, 16)
    assert output.match_map.shape == (2, 3, 5, 4)


def test_an_encoder_is_frozen_and_stays_in_evaluation_mode() -> None:
    class Restless(RandomEncoder):
        def train(self, mode: bool = True) -> Restless:
            return nn.Module.train(self, mode)

    model = SMALL.build(Restless(), ANIMALS).train()
    assert model.decoder.training and not any(module.training for module in model.clip.modules())
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())


@pytest.mark.parametrize("position", [0, 1, 3])
def test_the_prompt_stands_where_the_encoder_wants_it(position: int) -> None:
    encoder = RandomEncoder(position=position)
    prompt = LearnablePrompt.for_classes(encoder, ANIMALS, length=2)
    words, ends = encoder.token_embeddings(ANIMALS.names)
    embeddings, end_positions = prompt()
    for row, word in zip(embeddings, words, strict=True):
        assert torch.equal(row, torch.cat([word[:position], prompt.vectors, word[position:]]))
    assert torch.equal(end_positions, ends + 2)


def test_a_class_that_the_encoder_does_not_know_is_named() -> None:
    encoder = RandomEncoder()
    encoder.known_texts = frozenset(("background", "dog", "bird"))
    with pytest.raises(DataError, match=r"random numbers 0: .* does not know the class 'cat'$"):
        SMALL.build(encoder, ANIMALS)


def test_layers_are_tapped_in_a_clip_alone() -> None:
    with pytest.raises(ConfigError, match=r"tap_layers \[1, 2, 3, 4\] differ from those of the encoder, None"):
        ModelSettings(tap_layers=(1, 2, 3, 4)).build(RandomEncoder(), ANIMALS)


def test_a_trained_folder_comes_back_with_its_encoder(tmp_path: Path, tiny_clip: FrozenCLIP) -> None:
    encoder = RandomEncoder(widths=WIDTHS, scales=SCALES[1], prefix=5)
    model = SMALL.build(encoder, ANIMALS).eval()
    folder = save_weakclip(model, tmp_path / "model")
    loaded = load_weakclip(folder, clip=RandomEncoder(widths=WIDTHS, scales=SCALES[1], prefix=5))
    images = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert "RandomEncoder with maps of 4, 6, 10, 12 channels, joint width 16" in loaded.origin
    assert "the encoder (given, from random numbers 0)" in loaded.origin
    with pytest.raises(WeightsError, match=r"that is no CLIP \('random numbers 0'\); pass it yourself: `clip`"):
        load_weakclip(folder)
    for other in (RandomEncoder(widths=WIDTHS, scales=SCALES[1], prefix=5, seed=1), tiny_clip):
        with pytest.raises(WeightsError, match="trained with other CLIP weights"):
            load_weakclip(folder, clip=other)
