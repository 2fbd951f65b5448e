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


@pytest.fixture
def settings(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """Of a run whose encoder lies in `encoder`, and that retrains no network."""
    return tiny_settings() | {"clip": {"source": str(tmp_path / "encoder")}, "retrain": {"model": None}}


@pytest.mark.parametrize(
    "case",
    [
        ("clip", "patch_text", 14),  # the crop of 64 is no whole number of patches
        ("metaclip_2", "clip_gradcam", 8),
        ("siglip", "patch_text", 8),
        ("siglip", "clip_gradcam", 14),
        ("tipsv2", "cosine", 14),
    ],
)
def test_a_whole_run(
    case: tuple[str, str, int], settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, method, patch = case
    caplog.set_level("INFO", "weakclip")
    encoder = tiny(kind, patch_size=patch, image_size=2 * patch)
    encoder.model.save_pretrained(tmp_path / "encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "encoder")
    config = parse_config(settings | {"seeds": {"method": method}}, origin="test")
    result = weakclip.run_pipeline(config, tmp_path / "run")
    assert all(np.isfinite(score.mean_iou) for score in result.scores) and result.scores
    odd = "augment.crop_size: 64 is no whole number of patches of 14 pixels; 56 or 70 needs no resizing" in caplog.text
    assert odd == (patch == 14)
    predictor = weakclip.load_predictor(tmp_path / "run/2_train")
    mask = predictor(ScenesDataset("val", size=64, count=1).image(0)).mask
    assert mask.shape == (64, 64)
