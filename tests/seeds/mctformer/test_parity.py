"""Parity with the released MCTformer+: logits of all heads in training; logits, fused maps, affinity in test.

The cases are those of the fixtures, and those that the oracle makes of other sizes
(`tests/reference/oracle_mctformer.py`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import oracle_mctformer as oracle
import pytest
import torch
from parity_cases import Case, as_float, assert_parity, case_params

from weakclip.errors import WeightsError
from weakclip.seeds.mctformer.cam import refine
from weakclip.seeds.mctformer.model import MCTformer
from weakclip.seeds.mctformer.storage import load_mctformer, save_mctformer

Sizes = oracle.Sizes
MADE = {
    "one-class-one-layer": Sizes(classes=1, depth=1, cam_layers=1, decay=1.0),
    "voc": Sizes(classes=20, heads=2, test_size=(80, 48), test_batch=3),
    "coco": Sizes(classes=80, depth=2, cam_layers=12, decay=0.9, stored=torch.float16),
    "ragged": Sizes(test_size=(71, 101), train_batch=1, depth=12, dim=16, heads=1),
    "as-many-patches-in-another-shape": Sizes(test_size=(32, 128), cam_layers=2, decay=0.0),
    "small-patches": Sizes(patch_size=8, train_size=40, test_size=(40, 40), dim=64, heads=8),
    "patches-of-14": Sizes(patch_size=14, train_size=42, test_size=(98, 98), cam_layers=4),
    "large-patches": Sizes(patch_size=32, train_size=96, test_size=(64, 160), dim=64, heads=1),
}


@pytest.fixture(
    scope="module",
    params=case_params("mctformer", {name: partial(oracle.write, sizes) for name, sizes in MADE.items()}),
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return request.param(tmp_path_factory.mktemp("mctformer"))


@pytest.fixture(scope="module")
def model(case: Case) -> MCTformer:
    return load_mctformer(case.file("*.pth"), heads=case.config["heads"], rank_decay=case.config["decay"])


def sides(size: int | list[int]) -> list[int]:
    """Height and width; one number stands for both."""
    return [size, size] if isinstance(size, int) else size


def unnormalized(model: MCTformer, case: Case, name: str) -> torch.Tensor:
    """The fixture's images are normalised already; the model does that itself."""
    return as_float(case.tensors, name) * model.pixel_std + model.pixel_mean


def test_the_checkpoint_has_the_size_that_its_configuration_says(model: MCTformer, case: Case) -> None:
    config = case.config
    assert (model.num_classes - 1, model.patch_size) == (config["classes"], config["patch_size"])
    assert (model.cls_token.shape[-1], len(model.blocks), model.heads) == tuple(
        config[key] for key in ("dim", "depth", "heads")
    )
    assert [model.side * model.patch_size] * 2 == sides(config["train_size"])


@torch.no_grad()
def test_training_outputs_parity(model: MCTformer, case: Case) -> None:
    output = model(unnormalized(model, case, "train_image"))
    assert_parity(output.class_logits, case.tensors["class_logits"])
    assert_parity(output.patch_logits, case.tensors["patch_logits"])
    assert_parity(output.class_tokens, case.tensors["class_tokens_per_layer"])


def test_localization_parity(model: MCTformer, case: Case) -> None:
    images = unnormalized(model, case, "test_image")
    assert list(images.shape[2:]) == sides(case.config["test_size"])
    found = model.localize(images, attention_layers=case.config["cam_layers"])
    assert_parity(found.logits, case.tensors["test_logits"])
    assert_parity(found.affinity, case.tensors["patch_affinity"])
    assert_parity(found.maps, case.tensors["cam"])
    assert_parity(refine(found.maps, found.affinity), case.tensors["cam_refined"])
    stored = refine(as_float(case.tensors, "cam"), as_float(case.tensors, "patch_affinity"))
    assert_parity(stored, case.tensors["cam_refined"])


def test_a_released_model_saved_in_our_format_parity(model: MCTformer, case: Case, tmp_path: Path) -> None:
    save_mctformer(model, tmp_path / "model.safetensors")
    loaded = load_mctformer(tmp_path / "model.safetensors")
    found = loaded.localize(unnormalized(model, case, "test_image"))
    assert_parity(found.logits, case.tensors["test_logits"])


def test_missing_and_unexpected_names_are_told(case: Case, tmp_path: Path) -> None:
    state = torch.load(case.file("*.pth"), weights_only=True)["model"]
    del state["head.bias"]
    state["neck.stranger"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=r"missing head\.bias, unexpected neck\.stranger$"):
        load_mctformer(tmp_path / "changed.pth", heads=case.config["heads"])
