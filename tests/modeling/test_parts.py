"""Laws of pyramid adapter, co-attention and decoder, and their parameter counts at ViT-B/16 and 21 classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from weakclip.modeling import CoAttention, PyramidAdapter, TextGuidedDecoder, match_pixels
from weakclip.modeling.co_attention import Attention


@pytest.fixture(autouse=True)
def on_device(device: torch.device) -> Iterator[None]:
    """What a test makes is made on the device under test."""
    with device:
        yield


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_gradient(module: nn.Module) -> list[str]:
    """Names of parameters without a gradient."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_parameter_counts_are_those_of_the_released_code() -> None:
    """ViT-B/16: D = 768, E = 512; K = 21. The sum with 8 prompt vectors of 512 is 21,240,853."""
    with torch.device("meta"):
        adapter, attention, decoder = PyramidAdapter(768), CoAttention(512), TextGuidedDecoder(768, 21)
    assert count(adapter) == 7_087_872
    assert attention.alpha.numel() + attention.beta.numel() == 1_024
    assert count(attention) - 1_024 == 6_840_832
    assert count(decoder.feature_pyramid) == 3_169_280
    assert count(decoder.head) == 4_137_749
    assert count(adapter) + count(attention) + count(decoder) + 8 * 512 == 21_240_853


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1), (1, 7)])
def test_pyramid_has_four_strides(grid: tuple[int, int]) -> None:
    height, width = grid
    layers = [torch.randn(2, 8, *grid) for _ in range(4)]
    shapes = [tuple(level.shape) for level in PyramidAdapter(8)(layers)]
    expected = [(4 * height, 4 * width), (2 * height, 2 * width), grid, (max(height // 2, 1), max(width // 2, 1))]
    assert shapes == [(2, 8, *size) for size in expected]


def test_pyramid_gradient_on_maps_that_lie_as_tokens() -> None:
    """Image towers give (B, 1+hw, D): maps made from it are strided, and carry no gradient of their own."""
    adapter = PyramidAdapter(16)
    tokens = torch.randn(4, 2, 17, 16)
    layers = [part[:, 1:].transpose(1, 2).unflatten(2, (4, 4)) for part in tokens]
    torch.stack([level.square().sum() for level in adapter(layers)]).sum().backward()
    assert not without_gradient(adapter)


def test_pyramid_levels_keep_their_own_layer() -> None:
    """Each level reads one tapped layer alone."""
    adapter = PyramidAdapter(8).eval()
    layers = [torch.randn(1, 8, 4, 4) for _ in range(4)]
    before = adapter(layers)
    for index in range(4):
        changed = [layer + (index == other) * torch.randn(1, 8, 4, 4) for other, layer in enumerate(layers)]
        same = [torch.equal(a, b) for a, b in zip(before, adapter(changed), strict=True)]
        assert same == [other != index for other in range(4)]


@pytest.mark.parametrize("classes", [2, 5, 21, 81])
def test_co_attention_keeps_shapes(classes: int) -> None:
    text, image = CoAttention(16, width=8, heads=2, num_layers=1)(torch.randn(classes, 16), torch.randn(3, 13, 16))
    assert text.shape == (3, classes, 16)
    assert image.shape == (3, 13, 16)
    match_map = match_pixels(image, text, (3, 4))
    assert match_map.shape == (3, classes, 3, 4)
    assert match_map.abs().max() <= 1 + 1e-5


def test_all_co_attention_layers_chain() -> None:
    """Every layer, the first included, gets a gradient and changes the result."""
    attention = CoAttention(16, width=8, heads=2, num_layers=3, dropout=0.0)
    text, image = torch.randn(5, 16), torch.randn(2, 7, 16)
    matched_text, matched_image = attention(text, image)
    (matched_text.square().sum() + matched_image.square().sum()).backward()
    assert not without_gradient(attention)
    for layers, side in ((attention.text_layers, 0), (attention.image_layers, 1)):
        for layer in layers:
            with torch.no_grad():
                layer.mlp[-2].bias.add_(torch.arange(8.0))
            changed = attention(text, image)
            assert not torch.allclose(changed[side], (matched_text, matched_image)[side])
            matched_text, matched_image = changed


def test_temperature_zero_changes_nothing() -> None:
    attention = CoAttention(16, width=8, heads=2, num_layers=2, temperature_init=0.0)
    text, image = torch.randn(5, 16), torch.randn(2, 7, 16)
    matched_text, matched_image = attention(text, image)
    assert torch.equal(matched_text, text.expand(2, -1, -1))
    assert torch.equal(matched_image, image)


def test_permuting_classes_permutes_co_attention() -> None:
    attention = CoAttention(16, width=8, heads=4, num_layers=2).eval()
    text, image, order = torch.randn(6, 16), torch.randn(2, 7, 16), torch.randperm(6)
    plain, permuted = attention(text, image), attention(text[order], image)
    torch.testing.assert_close(permuted[0], plain[0][:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted[1], plain[1], rtol=1e-4, atol=1e-5)


def test_attention_follows_the_formula() -> None:
    attention = Attention(8, 2, dropout=0.0)
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        query, key, value = (
            part[..., head] for part in (attention.query(x), attention.key(memory), attention.value(memory))
        )
        mixed.append((query @ key.transpose(1, 2) / 2).softmax(dim=-1) @ value)
    torch.testing.assert_close(attention(x, memory), attention.output(torch.cat(mixed, dim=-1)))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 attention heads do not divide"):
        Attention(8, 3, dropout=0.0)


def test_match_map_is_the_cosine() -> None:
    image, text = torch.randn(1, 1 + 6, 4), torch.randn(1, 3, 4)
    match_map = match_pixels(image, text, (2, 3))
    assert match_map[0, 1, 1, 2].item() == pytest.approx(
        functional.cosine_similarity(image[0, 6], text[0, 1], dim=0).item(), abs=1e-6
    )
    torch.testing.assert_close(match_pixels(3 * image, 7 * text, (2, 3)), match_map)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("classes", "grid"), [(2, (4, 4)), (5, (5, 3)), (21, (2, 2)), (21, (1, 1)), (81, (3, 8))])
def test_decoder_gives_the_finest_resolution(classes: int, grid: tuple[int, int], training: bool) -> None:
    """Every parameter has a gradient but for one case: on a map of one pixel, a bias adds the same to all that batch
    norm averages over, and is subtracted again. In evaluation it is not."""
    decoder = TextGuidedDecoder(8, classes, channels=8).train(training)
    pyramid = PyramidAdapter(8)([torch.randn(2, 8, *grid) for _ in range(4)])
    logits = decoder(pyramid, torch.randn(2, classes, *grid))
    assert logits.shape == (2, classes, 4 * grid[0], 4 * grid[1])
    logits.square().sum().backward()
    single = {f"feature_pyramid.outputs.{i}.bias" for i, level in enumerate(pyramid) if level.shape[2:] == (1, 1)}
    assert set(without_gradient(decoder)) <= (single if training else set())


def test_decoder_is_guided_by_the_match_map() -> None:
    decoder = TextGuidedDecoder(8, 3, channels=8).eval()
    pyramid = PyramidAdapter(8).eval()([torch.randn(1, 8, 4, 4) for _ in range(4)])
    match_map = torch.randn(1, 3, 4, 4, requires_grad=True)
    decoder(pyramid, match_map).sum().backward()
    assert match_map.grad is not None
    assert (match_map.grad.abs().sum(dim=(2, 3)) > 0).all()
