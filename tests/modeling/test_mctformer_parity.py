"""Parity with the released MCTformer+: logits of all heads in training; logits, fused maps, affinity in test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from weakclip.errors import WeightsError
from weakclip.modeling.mctformer import MCTformer
from weakclip.modeling.mctformer_storage import load_mctformer, save_mctformer


@pytest.fixture(scope="module")
def folder(shared_fixtures: Path) -> Path:
    folder = shared_fixtures / "mctformer"
    if not folder.is_dir():
        pytest.skip(f"no released MCTformer+ checkpoint at {folder}")
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "expected.safetensors")


@pytest.fixture(scope="module")
def model(folder: Path, config: dict[str, Any]) -> MCTformer:
    return load_mctformer(folder / "official.pth", heads=config["heads"], rank_decay=config["decay"])


def sides(size: int | list[int]) -> list[int]:
    """Height and width; one number stands for both."""
    return [size, size] if isinstance(size, int) else size


def unnormalized(model: MCTformer, pixels: torch.Tensor) -> torch.Tensor:
    """The fixture's images are normalised already; the model does that itself."""
    return pixels * model.pixel_std + model.pixel_mean


def assert_parity(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_checkpoint_has_the_size_that_its_configuration_says(model: MCTformer, config: dict[str, Any]) -> None:
    assert (model.num_classes - 1, model.patch_size) == (config["classes"], config["patch_size"])
    assert (model.cls_token.shape[-1], len(model.blocks), model.heads) == tuple(
        config[key] for key in ("dim", "depth", "heads")
    )
    assert [model.side * model.patch_size] * 2 == sides(config["train_size"])


@torch.no_grad()
def test_training_outputs_parity(model: MCTformer, expected: dict[str, torch.Tensor]) -> None:
    output = model(unnormalized(model, expected["train_image"]))
    assert_parity(output.class_logits, expected["class_logits"])
    assert_parity(output.patch_logits, expected["patch_logits"])
    assert_parity(output.class_tokens, expected["class_tokens_per_layer"])


def test_localization_parity(model: MCTformer, expected: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    images = unnormalized(model, expected["test_image"])
    assert list(images.shape[2:]) == sides(config["test_size"])
    found = model.localize(images, attention_layers=config["cam_layers"])
    assert_parity(found.logits, expected["test_logits"])
    assert_parity(found.maps, expected["cam"])
    assert_parity(found.affinity, expected["patch_affinity"])


def test_a_released_model_saved_in_our_format_parity(
    model: MCTformer, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_mctformer(model, tmp_path / "model.safetensors")
    loaded = load_mctformer(tmp_path / "model.safetensors")
    found = loaded.localize(unnormalized(model, expected["test_image"]))
    assert_parity(found.logits, expected["test_logits"])


def test_missing_and_unexpected_names_are_told(folder: Path, config: dict[str, Any], tmp_path: Path) -> None:
    state = torch.load(folder / "official.pth", weights_only=True)["model"]
    del state["head.bias"]
    state["neck.stranger"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=r"missing head\.bias, unexpected neck\.stranger$"):
        load_mctformer(tmp_path / "changed.pth", heads=config["heads"])
