"""Runs to export: the data of a run and its pseudo masks, drawn; no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.datasets.images import write_mask
from weakclip.pipeline.context import open_run


@pytest.fixture
def folder_run(tmp_path: Path) -> Path:
    """A run on three photos of odd sizes, one of them in a folder, with pseudo masks of all classes."""
    root = tmp_path / "photos"
    (root / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("one.jpg", "two.png", "more/one.JPG")):
        pixels = rng.integers(0, 256, (15 + 2 * number, 21 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    (root / "labels.csv").write_text("image,labels\none.jpg,cat\ntwo.png,cat;dog\nmore/one.JPG,dog\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "folder", "root": str(root)}}))
    dataset = open_run(run).train
    for index, name in enumerate(dataset.names):
        mask = np.repeat(np.repeat(rng.integers(0, 3, (8, 8), dtype=np.uint8), 3, axis=0), 3, axis=1)
        height, width = dataset.size(index)
        write_mask(run / "3_pseudo_masks/masks" / f"{name}.png", mask[:height, :width], dataset.class_set.palette)
    return run
