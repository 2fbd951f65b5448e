"""Saving and loading: what comes back is equal, what does not fit is named, nothing in a file is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeightsError
from weakclip.modeling import ModelSettings, WeakCLIP, load_weakclip, save_weakclip
from weakclip.modeling.storage import settings_of

SETTINGS = ModelSettings(
    prompt_length=4,
    tap_layers=(1, 2, 3, 4),
    co_attention_width=8,
    co_attention_heads=2,
    co_attention_layers=2,
    decoder_channels=8,
    dropout=0.2,
)
CLASSES = ClassSet(
    names=("background", "cat", "dog"),
    prompts=("sky", "a cat", "a dog"),
    background_prompts=("grass",),
    ids=(0, 17, 18),
)


@pytest.fixture
def clip(make_tiny_clip: Callable[..., FrozenCLIP]) -> FrozenCLIP:
    return make_tiny_clip(tap_layers=(1, 2, 3, 4))


@pytest.fixture
def model(clip: FrozenCLIP) -> WeakCLIP:
    model = SETTINGS.build(clip, CLASSES)
    model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))  # moves the batch-norm statistics
    return model


@pytest.fixture
def saved(model: WeakCLIP, tmp_path: Path) -> Path:
    return save_weakclip(model, tmp_path / "model")


def test_what_is_saved_comes_back_equal(model: WeakCLIP, clip: FrozenCLIP, saved: Path) -> None:
    loaded = load_weakclip(saved, clip=clip)
    assert loaded.class_set == CLASSES
    assert settings_of(loaded) == SETTINGS == settings_of(model)
    assert not loaded.training
    images = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    for found, expected in zip(loaded(images), model.eval()(images), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["model.safetensors", "weakclip.json"])
def test_a_file_in_the_folder_names_the_folder(clip: FrozenCLIP, saved: Path, name: str) -> None:
    assert load_weakclip(saved / name, clip=clip).class_set == CLASSES


def test_a_loaded_model_says_what_it_is(
    clip: FrozenCLIP, saved: Path, model: WeakCLIP, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "weakclip"):
        loaded = load_weakclip(saved, clip=clip)
    assert model.origin == ""
    assert loaded.origin == (
        f"{saved}: WeakCLIP in this package's format: 3 classes (background, cat, dog), CLIP with images of 32 pixels "
        "in patches of 8, 4 layers of 32 (texts: 2 of 24), joint width 16, prompt length 4, co-attention width 8, "
        "decoder width 8; not in the file: the CLIP (given, from tiny)"
    )
    assert [record.getMessage() for record in caplog.records] == [loaded.origin]


def test_only_what_is_trained_is_on_disk(model: WeakCLIP, saved: Path) -> None:
    assert set(load_file(saved / "model.safetensors")) == set(model.trainable_state())
    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "weakclip.json"]


def test_clip_is_loaded_from_its_source(model: WeakCLIP, tmp_path: Path) -> None:
    """Without `clip`, the source in the folder is loaded, with the pixel statistics of the training."""
    source = tmp_path / "clip"
    model.clip.model.save_pretrained(source)
    model.clip.tokenizer.save_pretrained(source)
    model.clip.source = str(source)
    model.clip.pixel_mean.fill_(0.25)
    loaded = load_weakclip(save_weakclip(model, tmp_path / "model"))
    assert loaded.clip.tap_layers == (1, 2, 3, 4)
    assert torch.equal(loaded.clip.pixel_mean, model.clip.pixel_mean)
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded(images).logits, model.eval()(images).logits)


def test_loading_leaves_the_callers_random_numbers(clip: FrozenCLIP, saved: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_weakclip(saved, clip=clip)
    assert torch.equal(torch.rand(3), expected)


def test_names_and_shapes_that_do_not_fit_are_in_one_line(clip: FrozenCLIP, saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    state["stranger"] = torch.zeros(1)
    state["co_attention.alpha"] = torch.zeros(3)
    del state["prompt.vectors"]
    save_file(state, saved / "model.safetensors")
    with pytest.raises(WeightsError) as error:
        load_weakclip(saved, clip=clip)
    message = str(error.value)
    assert "\n" not in message
    for part in ("missing prompt.vectors", "unexpected stranger", "co_attention.alpha (3,), expected (16,)"):
        assert part in message


def test_weights_that_do_not_fit_leave_the_model_as_it_was(model: WeakCLIP) -> None:
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    wrong = {name: torch.zeros_like(value) for name, value in before.items() if name != "prompt.vectors"}
    with pytest.raises(WeightsError, match=r"here: does not fit.*prompt\.vectors"):
        model.load_trainable_state(wrong, source="here")
    assert all(torch.equal(value, model.trainable_state()[name]) for name, value in before.items())


def test_another_clip_is_refused(make_tiny_clip: Callable[..., FrozenCLIP], clip: FrozenCLIP, saved: Path) -> None:
    other = make_tiny_clip(layers=5, tap_layers=(1, 2, 3, 4))
    with torch.no_grad():
        other.model.visual_projection.weight.add_(1)
    with pytest.raises(WeightsError, match="other CLIP weights"):
        load_weakclip(saved, clip=other)
    clip.pixel_std.fill_(0.5)
    with pytest.raises(WeightsError, match="pixel_std"):
        load_weakclip(saved, clip=clip)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_folders_are_refused(clip: FrozenCLIP, saved: Path, tmp_path: Path) -> None:
    def refused(match: str, damage: Callable[[Path], object]) -> None:
        folder = Path(shutil.copytree(saved, tmp_path / "damaged", dirs_exist_ok=True))
        damage(folder)
        with pytest.raises(WeightsError, match=match) as error:
            load_weakclip(folder, clip=clip)
        assert "\n" not in str(error.value)
        shutil.rmtree(folder)

    refused("no such file", lambda folder: (folder / "weakclip.json").unlink())
    refused("no such file", lambda folder: (folder / "model.safetensors").unlink())
    refused("not readable as JSON", lambda folder: (folder / "weakclip.json").write_text("{"))
    refused("not written by save_weakclip", lambda folder: (folder / "weakclip.json").write_text("[]"))
    refused("not written by save_weakclip", lambda folder: edit(folder / "weakclip.json", format="other"))
    refused("format version 2", lambda folder: edit(folder / "weakclip.json", version=2))
    refused("damaged description", lambda folder: edit(folder / "weakclip.json", settings={"co_attention_heads": 0}))
    refused("damaged description", lambda folder: edit(folder / "weakclip.json", class_set={"names": ["one"]}))
    refused("not a safetensors file", lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100))


def test_what_is_no_checkpoint_is_refused(clip: FrozenCLIP, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_weakclip(tmp_path / "missing.pth")
    with pytest.raises(WeightsError, match="no such file"):
        load_weakclip(tmp_path)
    noise = tmp_path / "noise.pth"
    noise.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="not a checkpoint that can be read safely"):
        load_weakclip(noise)
    other = tmp_path / "other.pth"
    for content in ({"weight": torch.zeros(2)}, {"state_dict": {"weight": torch.zeros(2)}}, [1, 2]):
        torch.save(content, other)
        with pytest.raises(WeightsError, match="not a released WeakCLIP checkpoint"):
            load_weakclip(other)
