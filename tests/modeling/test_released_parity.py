"""Parity with the released WeakCLIP: its checkpoint format, every intermediate result and the losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from weakclip.classes import COCO14, VOC12
from weakclip.clip.text import tokenize
from weakclip.clip.vocabulary import load_tokenizer
from weakclip.errors import WeightsError
from weakclip.losses import boundary_loss, grid_probabilities, grid_seeds, matching_loss, seeding_loss
from weakclip.modeling import WeakCLIP, load_weakclip, save_weakclip
from weakclip.modeling.released_words import KnownWords, knows

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def folder(shared_fixtures: Path) -> Path:
    folder = shared_fixtures / "weakclip"
    if not folder.is_dir():
        pytest.skip(f"no released WeakCLIP checkpoint at {folder}")
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def vocabulary(shared_fixtures: Path) -> Path:
    path = shared_fixtures / "openai_clip" / VOCABULARY
    if not path.is_file():
        pytest.skip(f"no vocabulary at {path}")
    return path


@pytest.fixture(scope="module")
def model(folder: Path, vocabulary: Path) -> WeakCLIP:
    return load_weakclip(folder / "official.pth", architecture=folder / "config.json", vocabulary=vocabulary)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "expected.safetensors")


def assert_parity(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_intermediate_results_parity(
    model: WeakCLIP, expected: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    images = expected["image_uint8"]
    assert_parity(model.clip.normalize(images), expected["image"])
    assert_parity(model.text_embeddings()[None], expected["text_embeddings"])
    features = model.clip.encode_image(images)
    assert_parity(features.tokens[:, 0], expected["global_embedding"])
    assert_parity(features.tokens[:, 1:].transpose(1, 2).unflatten(2, features.grid), expected["pixel_embeddings"])
    strides = sorted(int(name.removeprefix("pyramid_")) for name in expected if name.startswith("pyramid_"))
    for stride, level in zip(strides, model.pyramid_adapter(features.layers), strict=True):
        assert_parity(level, expected[f"pyramid_{stride}"])
    output = model(images)
    assert_parity(output.class_embeddings, expected["matched_text_embeddings"])
    assert_parity(output.match_map, expected["match_map"])
    assert_parity(output.logits, expected["logits"])
    assert model.class_set.names == tuple(config["class_names"])


@torch.no_grad()
def test_losses_parity(model: WeakCLIP, expected: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    output, seeds = model(expected["image_uint8"]), expected["seed_mask"][:, 0]
    size = tuple(config["loss_size"])
    probs = grid_probabilities(output.logits, size)
    assert_parity(probs, expected["probabilities"])
    classes = torch.arange(model.class_set.num_classes)[:, None, None]
    assert torch.equal((grid_seeds(seeds, size)[:, None] == classes).float(), expected["cues"])
    assert_parity(seeding_loss(probs, seeds)[None], expected["seeding_loss"])
    assert_parity(boundary_loss(probs, expected["boundary_target"])[None], expected["boundary_loss"])
    assert_parity(matching_loss(output.match_map, seeds)[None], expected["matching_loss"])


def test_every_trained_tensor_of_the_checkpoint_is_used(folder: Path, model: WeakCLIP) -> None:
    """Only co-attention layers before the last are left, which the released code computes for nothing."""
    stored = torch.load(folder / "official.pth", weights_only=True)["state_dict"]
    frozen = ("backbone.", "text_encoder.")
    trained = [n for n in stored if not n.startswith(frozen) or n.startswith("backbone.fpn")]
    layers = {name.split("decoder.")[-1].split(".")[0] for name in trained if "_decoder.decoder." in name}
    last = max(map(int, layers))
    used = [n for n in trained if "decoder." not in n or not any(f"decoder.{i}." in n for i in range(last))]
    assert len(used) == len(model.trainable_state())


def test_a_released_model_saved_in_our_format_parity(
    folder: Path, model: WeakCLIP, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    saved = save_weakclip(model, tmp_path / "model")
    loaded = load_weakclip(saved, clip=model.clip)
    with torch.no_grad():
        assert_parity(loaded(expected["image_uint8"]).logits, expected["logits"])


def test_missing_and_unexpected_names_are_told(folder: Path, vocabulary: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "official.pth", weights_only=True)
    state = content["state_dict"]

    def load() -> WeakCLIP:
        torch.save(content, tmp_path / "changed.pth")
        return load_weakclip(tmp_path / "changed.pth", architecture=folder / "config.json", vocabulary=vocabulary)

    state["neck.stranger"] = torch.zeros(1)
    del state["context_decoder.out_proj.0.bias"], state["backbone.ln_post.weight"]
    told = r"missing backbone\.ln_post\.weight, missing context_decoder\.out_proj\.0\.bias, unexpected neck\.stranger$"
    with pytest.raises(WeightsError, match=told):
        load()
    del state["neck.stranger"]
    for name in [name for name in state if name.startswith("text_encoder.")]:
        del state[name]
    with pytest.raises(WeightsError, match=r"missing .* and \d+ more"):
        load()
    content["state_dict"] = {"layer.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="not a released WeakCLIP checkpoint"):
        load()


def test_tensors_of_another_shape_are_told(folder: Path, vocabulary: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "official.pth", weights_only=True)
    for name, told in (("gamma", "co_attention.alpha"), ("backbone.proj", "its CLIP does not fit")):
        changed = content["state_dict"] | {name: content["state_dict"][name][:-1]}
        torch.save({"state_dict": changed, "meta": content["meta"]}, tmp_path / "changed.pth")
        with pytest.raises(WeightsError, match=told):
            load_weakclip(tmp_path / "changed.pth", architecture=folder / "config.json", vocabulary=vocabulary)


def test_without_a_vocabulary_known_names_load_and_others_are_told_parity(
    folder: Path, model: WeakCLIP, vocabulary: Path
) -> None:
    """The words of VOC and COCO have the ids of OpenAI's vocabulary."""
    names = sorted({*VOC12.names, *COCO14.names})
    known, full = KnownWords(), load_tokenizer(str(vocabulary))
    assert torch.equal(tokenize(cast(Any, known), names, 77), tokenize(full, names, 77))
    if knows(model.class_set.names):
        alone = load_weakclip(folder / "official.pth", architecture=folder / "config.json")
        torch.testing.assert_close(alone.text_embeddings(), model.text_embeddings())
        with pytest.raises(WeightsError, match="'zeppelin' is not among"):
            alone.clip.encode_text(["zeppelin"])


def test_class_names_must_be_known(folder: Path, vocabulary: Path) -> None:
    with pytest.raises(WeightsError, match="class_names"):
        load_weakclip(folder / "official.pth", architecture={"class_names": ["one", "two"]}, vocabulary=vocabulary)
