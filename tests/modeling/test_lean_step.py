"""A training step keeps little in memory, and computes what the plain order of operations computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from weakclip.clip import recomputation
from weakclip.modeling import CoAttention, PyramidAdapter, TextGuidedDecoder
from weakclip.modeling.losses import matching_loss

WIDTH, CHANNELS = 12, 8


def plain_decoder(decoder: TextGuidedDecoder, pyramid: Sequence[Tensor], match_map: Tensor) -> Tensor:
    """The decoder in the order of its figure: join, project, merge, convolve, enlarge, add, drop, classify."""
    merged = []
    for lateral, level in zip(decoder.feature_pyramid.laterals, pyramid, strict=True):
        guide = functional.interpolate(match_map, size=level.shape[2:], mode="bilinear", align_corners=True)
        merged.append(lateral(torch.cat([level, guide], dim=1)))
    for finer in (2, 1, 0):
        merged[finer] = merged[finer] + functional.interpolate(merged[finer + 1], size=merged[finer].shape[2:])
    convolved = [output(level) for output, level in zip(decoder.feature_pyramid.outputs, merged, strict=True)]
    finest, *others = (branch(level) for branch, level in zip(decoder.head.branches, convolved, strict=True))
    for other in others:
        finest = finest + functional.interpolate(other, size=finest.shape[2:], mode="bilinear")
    return decoder.head.classifier(decoder.head.dropout(finest))


def gradients(result: Tensor, *modules: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return list(torch.autograd.grad((result * torch.randn_like(result)).sum(), parameters))


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1), (2, 7)])
@pytest.mark.parametrize("classes", [2, 21])
def test_the_decoder_computes_what_its_figure_shows(grid: tuple[int, int], classes: int) -> None:
    """Doubling and projection in one weight, classes before enlarging: the same logits and gradients."""
    adapter, decoder = PyramidAdapter(WIDTH).double(), TextGuidedDecoder(WIDTH, classes, channels=CHANNELS, dropout=0.0)
    decoder.double()
    layers = [torch.randn(2, WIDTH, *grid, dtype=torch.float64) for _ in range(4)]
    match_map = torch.randn(2, classes, *grid, dtype=torch.float64)
    lean = decoder(adapter.levels(layers), match_map)
    for plain in (plain_decoder(decoder, adapter(layers), match_map), decoder(adapter(layers), match_map)):
        torch.testing.assert_close(lean, plain, rtol=1e-9, atol=1e-9)
        for one, other in zip(gradients(lean, adapter, decoder), gradients(plain, adapter, decoder), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        lean = decoder(adapter.levels(layers), match_map)


def test_dropout_takes_whole_channels_of_the_sum() -> None:
    """The same channels of an image are dropped on all levels, as if their sum had been dropped out."""
    decoder = TextGuidedDecoder(WIDTH, 5, channels=CHANNELS, dropout=0.5).double()
    pyramid = [torch.randn(3, WIDTH, 8 // 2**level, 8 // 2**level, dtype=torch.float64) for level in range(4)]
    match_map = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    results = []
    for decode in (decoder, lambda *given: plain_decoder(decoder, *given)):
        torch.manual_seed(7)
        results.append(decode(pyramid, match_map))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_co_attention_computed_again_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout included: the backward pass draws what the forward pass drew."""
    monkeypatch.setattr(recomputation, "ROOM_ON_CPU", 0)
    attention = CoAttention(16, width=8, heads=2, num_layers=2, dropout=0.3)
    text, image = torch.randn(5, 16), torch.randn(2, 10, 16)

    def plain(text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        narrow_image, narrow_text = attention.image_projection(image), attention.text_projection(text).expand(2, -1, -1)
        changes = [narrow_text, narrow_image]
        for layer in attention.text_layers:
            changes[0] = layer(changes[0], narrow_image)
        for layer in attention.image_layers:
            changes[1] = layer(changes[1], narrow_text)
        text_change, image_change = attention.text_output(changes[0]), attention.image_output(changes[1])
        return text + attention.alpha * text_change, image + attention.beta * image_change

    found = []
    for match in (attention, plain):
        torch.manual_seed(3)
        result = torch.cat([part.flatten() for part in match(text, image)])
        found.append((result, gradients(result, attention)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("room", [0, 2**30])
def test_the_matching_loss_of_a_batch_is_that_of_one_large_map(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputation, "ROOM_ON_CPU", room)
    match_map = torch.randn(3, 5, 4, 6, requires_grad=True)
    seeds = torch.randint(0, 5, (3, 17, 23))
    seeds[torch.rand(seeds.shape) < 0.4] = 255
    resized = functional.interpolate(match_map / 0.07, size=(17, 23), mode="bilinear")
    plain = 0.4 * functional.cross_entropy(resized, seeds, ignore_index=255, reduction="none").mean()
    lean = matching_loss(match_map, seeds)
    torch.testing.assert_close(lean, plain)
    torch.testing.assert_close(torch.autograd.grad(lean, match_map), torch.autograd.grad(plain, match_map))


def kept(work: Callable[[], object]) -> dict[int, Tensor]:
    """Every storage that the graph of `work` keeps for the backward pass."""
    storages: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return storages


def test_nothing_as_large_as_the_fine_level_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its `D` channels at stride 4 for the decoder, nor, without room, a map of classes at the seeds' size."""
    monkeypatch.setattr(recomputation, "ROOM_ON_CPU", 0)
    adapter, decoder = PyramidAdapter(64), TextGuidedDecoder(64, 3, channels=8)
    layers = [torch.randn(2, 64, 8, 8) for _ in range(4)]
    match_map = torch.randn(2, 3, 8, 8, requires_grad=True)
    largest = 64 * 32 * 32
    results: list[Tensor] = []
    graph = kept(lambda: results.append(decoder(adapter.levels(layers), match_map)))
    assert graph and all(tensor.numel() < 2 * largest for tensor in graph.values())
    seeds = torch.randint(0, 3, (2, 128, 128))
    graph = kept(lambda: results.append(matching_loss(match_map, seeds)))
    assert graph and all(tensor.numel() < 3 * 128 * 128 for tensor in graph.values())
