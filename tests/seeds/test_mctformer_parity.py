"""The same weights and inputs give the refined maps of the released MCTformer+."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from weakclip.modeling.mctformer_storage import load_mctformer
from weakclip.seeds.mctformer import refine


def test_parity_of_refined_maps(shared_fixtures: Path) -> None:
    folder = shared_fixtures / "mctformer"
    if not folder.is_dir():
        pytest.skip(f"no released MCTformer+ checkpoint at {folder}")
    config, expected = json.loads((folder / "config.json").read_text()), load_file(folder / "expected.safetensors")
    model = load_mctformer(folder / "official.pth", heads=config["heads"], rank_decay=config["decay"])
    images = expected["test_image"] * model.pixel_std + model.pixel_mean  # the model normalises again
    found = model.localize(images, attention_layers=config["cam_layers"])
    for maps, affinity in ((found.maps, found.affinity), (expected["cam"], expected["patch_affinity"])):
        difference = refine(maps, affinity) - expected["cam_refined"]
        assert difference.abs().max() <= 1e-4 * expected["cam_refined"].abs().max()
    assert not torch.allclose(expected["cam"], expected["cam_refined"], rtol=0.1)  # refinement does something
