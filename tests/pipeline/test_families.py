"""Every family of encoders goes through a whole run, and its trained folder loads by the name of the encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_families import tiny

import weakclip
from weakclip.config import parse_config
from weakclip.datasets.scenes import ScenesDataset


@pytest.mark.parametrize(
    ("kind", "method", "vision"),
    [
        ("clip", "patch_text", {"patch_size": 14, "image_size": 28}),  # the crop of 64 is no whole number of patches
        ("metaclip_2", "clip_gradcam", {}),
        ("siglip", "patch_text", {}),
        ("siglip", "clip_gradcam", {"patch_size": 14, "image_size": 28}),
        ("tipsv2", "cosine", {"patch_size": 14, "image_size": 28}),
    ],
)
def test_a_whole_run(
    kind: str, method: str, vision: dict[str, int], tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    encoder = tiny(kind, **vision)
    encoder.model.save_pretrained(tmp_path / "encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "encoder")
    settings = tiny_settings() | {"clip": {"source": str(tmp_path / "encoder")}, "seeds": {"method": method}}
    settings["retrain"] = {"model": None}
    result = weakclip.run_pipeline(parse_config(settings, origin="test"), tmp_path / "run")
    assert all(np.isfinite(score.mean_iou) for score in result.scores) and result.scores
    predictor = weakclip.load_predictor(tmp_path / "run/2_train")
    mask = predictor(ScenesDataset("val", size=64, count=1).image(0)).mask
    assert mask.shape == (64, 64)
