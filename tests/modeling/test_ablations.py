"""Laws of the stand-ins: they learn nothing, change nothing that they should not, and leave the rest trainable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeightsError
from weakclip.modeling import (
    ModelSettings,
    PlainMatching,
    PyramidAdapter,
    ResizedPyramid,
    UnguidedDecoder,
    WeakCLIP,
    match_pixels,
    save_weakclip,
)
from weakclip.modeling.train import LossSettings, WeakCLIPLoss
from weakclip.study.parts import without_adapter, without_co_attention, without_text_guidance

SMALL = ModelSettings(
    prompt_length=2, co_attention_width=8, co_attention_heads=2, co_attention_layers=1, decoder_channels=8
)
COMPOSERS = (without_adapter, without_co_attention, without_text_guidance)
Composer = Callable[[ModelSettings, FrozenCLIP, ClassSet], WeakCLIP]


def numbered(classes: int) -> ClassSet:
    return ClassSet.from_foreground([f"thing {index}" for index in range(1, classes)])


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1), (1, 7)])
def test_resized_pyramid_has_the_adapters_shapes_and_no_weights(grid: tuple[int, int]) -> None:
    layers = [torch.randn(2, 8, *grid) for _ in range(4)]
    plain = ResizedPyramid()
    assert not list(plain.parameters())
    shapes = [level.shape for level in PyramidAdapter(8)(layers)]
    assert [level.shape for level in plain(layers)] == shapes


def test_resized_pyramid_is_the_adapter_where_neither_learns() -> None:
    """On the level that is not resized by weights, and at the first values of the norm, both are equal."""
    layers = [10 * torch.randn(2, 8, 4, 4) for _ in range(4)]
    for level in (2, 3):
        torch.testing.assert_close(ResizedPyramid()(layers)[level], PyramidAdapter(8)(layers)[level])


def test_without_co_attention_the_matched_embeddings_are_the_plain_ones(tiny_clip: FrozenCLIP) -> None:
    model = without_co_attention(SMALL, tiny_clip, numbered(5)).eval()
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    output, features = model(images), tiny_clip.encode_image(images)
    text = model.text_embeddings().expand(2, -1, -1)
    assert torch.equal(output.class_embeddings, text)
    torch.testing.assert_close(output.match_map, match_pixels(features.tokens, text, features.grid))
    assert not list(PlainMatching().parameters())


def test_unguided_decoder_does_not_see_the_match_map() -> None:
    decoder = UnguidedDecoder(8, 5, channels=8).eval()
    pyramid = ResizedPyramid()([torch.randn(1, 8, 4, 4) for _ in range(4)])
    first, second = (decoder(pyramid, torch.randn(1, 5, 4, 4)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 5, 16, 16)


@pytest.mark.parametrize("classes", [2, 21])
@pytest.mark.parametrize("compose", [*COMPOSERS, ModelSettings.build])
@pytest.mark.parametrize("prompt_length", [0, 2])
def test_every_parameter_that_is_left_gets_a_gradient(
    tiny_clip: FrozenCLIP, compose: Composer, classes: int, prompt_length: int
) -> None:
    settings = ModelSettings(**{**SMALL.__dict__, "prompt_length": prompt_length})
    model = compose(settings, tiny_clip, numbered(classes)).train()
    masks = torch.randint(0, classes, (2, 40, 32), dtype=torch.uint8)
    batch = {"image": torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8), "mask": masks}
    WeakCLIPLoss(LossSettings(size=8))(model, batch)["loss"].backward()
    left = {name: each for name, each in model.named_parameters() if each.requires_grad and each.numel()}
    assert not [name for name, each in left.items() if each.grad is None or not each.grad.abs().sum() > 0]


@pytest.mark.parametrize("compose", COMPOSERS)
def test_parts_that_stay_begin_alike(tiny_clip: FrozenCLIP, compose: Composer) -> None:
    states = []
    for composer in (ModelSettings.build, compose):
        torch.manual_seed(3)
        states.append(composer(SMALL, tiny_clip, numbered(5)).trainable_state())
    exchanged = "decoder." if compose is without_text_guidance else "~"
    shared = [name for name in states[1] if not name.startswith(exchanged)]
    assert shared
    assert all(torch.equal(states[0][name], states[1][name]) for name in shared)


@pytest.mark.parametrize("compose", COMPOSERS)
def test_a_model_with_stand_ins_is_not_saved_as_another(
    tiny_clip: FrozenCLIP, compose: Composer, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="has no folder format"):
        save_weakclip(compose(SMALL, tiny_clip, numbered(3)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_losses_that_are_left_out_are_not_there(tiny_clip: FrozenCLIP) -> None:
    model = SMALL.build(tiny_clip, numbered(3)).eval()
    masks = torch.randint(0, 3, (1, 32, 32), dtype=torch.uint8)
    batch = {"image": torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8), "mask": masks}
    whole = WeakCLIPLoss(LossSettings(size=8))(model, batch)
    for left_out, settings in (
        ("boundary_loss", LossSettings(size=8, crf=None)),
        ("matching_loss", LossSettings(size=8, matching_weight=0.0)),
    ):
        parts = WeakCLIPLoss(settings)(model, batch)
        assert set(parts) == set(whole) - {left_out}
        torch.testing.assert_close(parts["loss"], whole["loss"] - whole[left_out])
