"""The benchmark of proposals: the regions that it draws, and its scores on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_path import load_script

from weakclip.config import parse_config
from weakclip.pipeline import run_stage

benchmark = load_script("benchmarks/proposals.py")


def test_the_parts_of_a_mask_are_its_connected_pixels() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1]])
    assert benchmark.parts(mask).tolist() == [[1, 1, 2, 3], [2, 2, 2, 3]]


def test_a_superpixel_does_not_cross_a_strong_edge() -> None:
    image, truth = np.zeros((32, 32, 3), dtype=np.uint8), np.zeros((32, 32), dtype=np.uint8)
    image[:, 13:], truth[:, 13:] = 255, 1
    numbers = benchmark.superpixels(4)(image, truth, np.random.default_rng(0))
    assert len(np.unique(numbers)) > 4
    assert not set(numbers[truth == 0].tolist()) & set(numbers[truth == 1].tolist())


def test_every_kind_is_scored(tiny_settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, settings = tmp_path / "run", tiny_settings()
    settings["pseudo_masks"] |= {"seed_share": 0.3, "region_bank": {}}
    for stage in ("seeds", "train"):
        run_stage(parse_config(settings, origin="tiny"), ran, stage)
    benchmark.main([str(ran), "--out", str(tmp_path / "out"), "--images", "2", "--agreement", "0.6"])
    scores = json.loads((tmp_path / "out/proposals.json").read_text())
    assert list(scores) == ["none", *benchmark.KINDS]
    assert scores["true"]["0.6"] >= scores["none"]
    assert f"true: {{0.6: {scores['true']['0.6']}}}" in capsys.readouterr().out
