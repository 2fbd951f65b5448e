"""Laws of the composed model: what trains, what stays frozen, sizes, classes, and the text side's cache."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from typing import Any, get_type_hints

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import FrozenCLIP
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, DataError
from weakclip.modeling import ModelSettings, WeakCLIP, WeakCLIPOutput, build_weakclip
from weakclip.modeling import weakclip as weakclip_module
from weakclip.modeling.losses import boundary_loss, grid_probabilities, matching_loss, seeding_loss
from weakclip.modeling.weakclip import ModelNumbers
from weakclip.training.checkpoint import trained_tensors

SMALL = ModelSettings(
    prompt_length=4, co_attention_width=8, co_attention_heads=2, co_attention_layers=2, decoder_channels=8
)
ANIMALS = ClassSet.from_foreground(["cat", "dog", "bird", "cow"])


@pytest.fixture(autouse=True)
def on_device(device: torch.device) -> Iterator[None]:
    """What a test makes is made on the device under test."""
    with device:
        yield


def numbered(classes: int) -> ClassSet:
    return ClassSet.from_foreground([f"thing {index}" for index in range(1, classes)])


def pixels(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8)


def full_loss(output: WeakCLIPOutput, seeds: torch.Tensor) -> torch.Tensor:
    probs = grid_probabilities(output.logits, (8, 8))
    crf_probs = torch.rand_like(probs).softmax(dim=1)
    return seeding_loss(probs, seeds) + boundary_loss(probs, crf_probs) + matching_loss(output.match_map, seeds)


@pytest.fixture
def model(tiny_clip: FrozenCLIP) -> WeakCLIP:
    return SMALL.build(tiny_clip, ANIMALS)


@pytest.mark.parametrize("classes", [2, 5, 21, 81])
@pytest.mark.parametrize("patch_size", [8, 16])
def test_shapes(make_tiny_clip: Callable[..., FrozenCLIP], classes: int, patch_size: int) -> None:
    clip = make_tiny_clip(patch_size=patch_size)
    output = SMALL.build(clip, numbered(classes))(pixels(2, 3, 48, 32))
    height, width = 48 // patch_size, 32 // patch_size
    assert output.logits.shape == (2, classes, 4 * height, 4 * width)
    assert output.match_map.shape == (2, classes, height, width)
    assert output.class_embeddings.shape == (2, classes, clip.embed_dim)


@pytest.mark.parametrize("size", [(33, 47), (8, 8), (7, 40), (41, 24)])
def test_odd_sizes(model: WeakCLIP, size: tuple[int, int]) -> None:
    output = model.eval()(pixels(1, 3, *size))
    grid = tuple(-(-side // 8) for side in size)
    assert output.match_map.shape[2:] == grid
    assert output.logits.shape[2:] == (4 * grid[0], 4 * grid[1])
    assert output.logits.isfinite().all()


def test_float_and_uint8_images_agree(model: WeakCLIP) -> None:
    images = pixels(1, 3, 32, 32)
    for found, expected in zip(model.eval()(images / 255), model(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_every_trained_parameter_gets_a_gradient_and_clip_none(model: WeakCLIP) -> None:
    full_loss(model(pixels(2, 3, 40, 32)), torch.randint(0, 5, (2, 40, 32))).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if name.startswith("clip.")]
    silent = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def test_an_optimiser_step_changes_everything_but_clip(model: WeakCLIP) -> None:
    frozen = {name: value.clone() for name, value in model.clip.state_dict().items()}
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    full_loss(model.train()(pixels(2, 3, 32, 32)), torch.randint(0, 5, (2, 32, 32))).backward()
    optimiser.step()
    after = dict(model.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]
    assert all(torch.equal(value, model.clip.state_dict()[name]) for name, value in frozen.items())
    assert not any(module.training for module in model.clip.modules())


def test_training_lowers_the_loss(model: WeakCLIP) -> None:
    images, seeds = pixels(2, 3, 32, 32), torch.randint(0, 5, (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        output = model(images)
        loss = seeding_loss(grid_probabilities(output.logits, (16, 16)), seeds) + matching_loss(output.match_map, seeds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


def test_permuting_classes_permutes_match_map_and_embeddings(tiny_clip: FrozenCLIP, model: WeakCLIP) -> None:
    order = [0, 3, 1, 4, 2]
    other = SMALL.build(tiny_clip, ClassSet(names=tuple(ANIMALS.names[index] for index in order)))
    other.load_state_dict(model.state_dict())
    images = pixels(2, 3, 32, 40)
    plain, permuted = model.eval()(images), other.eval()(images)
    torch.testing.assert_close(permuted.match_map, plain.match_map[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.class_embeddings, plain.class_embeddings[:, order], rtol=1e-4, atol=1e-5)


def test_permuting_classes_and_the_decoders_class_weights_permutes_the_logits(
    tiny_clip: FrozenCLIP, model: WeakCLIP
) -> None:
    order = [0, 3, 1, 4, 2]
    other = SMALL.build(tiny_clip, ClassSet(names=tuple(ANIMALS.names[index] for index in order)))
    other.load_state_dict(model.state_dict())
    width = tiny_clip.vision_width
    with torch.no_grad():
        for lateral in other.decoder.feature_pyramid.laterals:
            lateral.weight[:, width:] = lateral.weight[:, width:].clone()[:, order]
        classifier = other.decoder.head.classifier
        classifier.weight.copy_(classifier.weight.clone()[order])
        classifier.bias.copy_(classifier.bias.clone()[order])
    images = pixels(2, 3, 32, 40)
    torch.testing.assert_close(other.eval()(images).logits, model.eval()(images).logits[:, order], rtol=1e-3, atol=1e-4)


def test_images_of_a_batch_do_not_mix(model: WeakCLIP) -> None:
    images = pixels(3, 3, 32, 32)
    together = model.eval()(images)
    for index in range(3):
        for found, expected in zip(model(images[index : index + 1]), together, strict=True):
            torch.testing.assert_close(found[0], expected[index], rtol=1e-3, atol=1e-4)


def test_mixed_precision_keeps_the_match_map_exact(model: WeakCLIP, device: torch.device) -> None:
    images, seeds = pixels(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = model(images)
    assert output.match_map.dtype == torch.float32
    full_loss(output, seeds).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(output.match_map, model(images).match_map, rtol=0, atol=0.1)


def test_a_copy_computes_the_same(model: WeakCLIP) -> None:
    images = pixels(1, 3, 32, 40)
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.equal(copy.deepcopy(model)(images).logits, expected.logits)


def test_trainable_state_has_everything_but_clip(model: WeakCLIP) -> None:
    state = model.trainable_state()
    assert {name for name, value in model.named_parameters() if value.requires_grad} <= set(state)
    assert not [name for name in state if name.startswith("clip.")]
    assert any(name.endswith("running_mean") for name in state)
    assert not any(value.requires_grad for value in state.values())


def test_text_is_encoded_once_and_again_when_the_prompt_changes(
    model: WeakCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = model.clip.encode_text_embeddings
    monkeypatch.setattr(model.clip, "encode_text_embeddings", lambda *parts: calls.append(1) or encode(*parts))
    with torch.no_grad():
        first = model.eval()(pixels(1, 3, 32, 32)).class_embeddings
        model(pixels(1, 3, 40, 32))
        assert len(calls) == 1
        model.prompt.vectors.add_(1.0)
        second = model.text_embeddings()
        assert len(calls) == 2
        model.load_trainable_state({**model.trainable_state()}, source="itself")
        torch.testing.assert_close(second, model.text_embeddings())
        assert len(calls) == 3, "a state was loaded"
        twin = copy.deepcopy(model)
        twin.prompt.vectors.mul_(2.0)
        assert not torch.equal(twin.text_embeddings(), model.text_embeddings())
        calls[:] = calls[:2]
    torch.testing.assert_close(second, model.text_embeddings())
    assert len(calls) == 3, "with gradients nothing is kept"
    assert model.text_embeddings().requires_grad
    assert first.shape[1] == second.shape[0]


def test_counts_at_vit_b_16_and_21_classes() -> None:
    """The published counts, part by part, on a ViT-B/16 without memory."""
    tokenizer = tokenizer_from_merges([])
    text = {"vocab_size": len(tokenizer), "eos_token_id": len(tokenizer) - 1, "hidden_size": 512}
    config = CLIPConfig(vision_config={"patch_size": 16}, text_config=text | {"num_attention_heads": 8})
    with torch.device("meta"):
        clip = FrozenCLIP(CLIPModel(config), tokenizer, source="ViT-B/16")
        model = build_weakclip(clip, numbered(21))
    counts = {
        name: sum(parameter.numel() for parameter in getattr(model, name).parameters())
        for name in ("prompt", "pyramid_adapter", "co_attention", "decoder")
    }
    assert counts == {
        "prompt": 4_096,
        "pyramid_adapter": 7_087_872,
        "co_attention": 6_840_832 + 1_024,
        "decoder": 3_169_280 + 4_137_749,
    }
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 21_240_853


def test_settings_and_builder_name_the_same_numbers(tiny_clip: FrozenCLIP) -> None:
    own = {name: value for name, value in asdict(ModelSettings()).items() if name != "tap_layers"}
    assert get_type_hints(ModelNumbers) == {name: get_type_hints(ModelSettings)[name] for name in own}
    said = inspect.getdoc(build_weakclip) or ""
    assert all(f"`{name}={value}`" in said for name, value in own.items())
    with pytest.raises(TypeError, match="prompt_lenght"):
        build_weakclip(tiny_clip, ANIMALS, prompt_lenght=4)  # type: ignore[call-arg]


def test_an_outline_has_the_shapes_and_no_memory(tiny_clip: FrozenCLIP) -> None:
    whole, outline = (SMALL.build(tiny_clip, ANIMALS, outline=each) for each in (False, True))
    shapes = [
        {name: (value.shape, value.dtype) for name, value in trained_tensors(model).items()}
        for model in (whole, outline)
    ]
    assert shapes[0] == shapes[1]
    large = [value for name, value in trained_tensors(outline).items() if not name.startswith("prompt")]
    assert large and all(value.is_meta for value in large)


@pytest.mark.parametrize(
    "wrong",
    [
        {"co_attention_heads": 3},
        {"co_attention_layers": 0},
        {"decoder_channels": 0},
        {"prompt_length": -1},
        {"dropout": 1.0},
        {"temperature_init": float("nan")},
        {"tap_layers": (1, 2)},
    ],
)
def test_numbers_out_of_range_are_named(wrong: dict[str, Any], make_tiny_clip: Callable[..., FrozenCLIP]) -> None:
    """By the settings, and by the builder on its own."""
    assert set(wrong) <= {field.name for field in fields(ModelSettings)}
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        replace(ModelSettings(), **wrong)
    taps, numbers = wrong.get("tap_layers"), {key: wrong[key] for key in wrong if key != "tap_layers"}
    with pytest.raises(ConfigError, match=name):
        build_weakclip(make_tiny_clip(tap_layers=taps), ANIMALS, **numbers)


def test_neither_settings_nor_builder_goes_through_the_other(
    tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weakclip_module, "build_weakclip", lambda *_, **__: pytest.fail("the builder is called"))
    assert SMALL.build(tiny_clip, ANIMALS).co_attention.alpha.numel() == tiny_clip.embed_dim


def test_the_clip_must_tap_the_layers_of_the_settings(make_tiny_clip: Callable[..., FrozenCLIP]) -> None:
    clip = make_tiny_clip(tap_layers=(1, 2, 3, 4))
    assert replace(SMALL, tap_layers=(1, 2, 3, 4)).build(clip, ANIMALS).clip is clip
    with pytest.raises(ConfigError, match="tap_layers"):
        replace(SMALL, tap_layers=(1, 2, 4, 4)).build(clip, ANIMALS)
    with pytest.raises(ConfigError, match="tap_layers"):
        SMALL.build(make_tiny_clip(tap_layers=(4,)), ANIMALS)


def test_a_prompt_that_does_not_fit_is_named(tiny_clip: FrozenCLIP) -> None:
    with pytest.raises(DataError, match="prompt_length"):
        build_weakclip(tiny_clip, ANIMALS, prompt_length=1000)
