"""Files that other programs write, after public reports of bugs; and a run on four photos that they are about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.datasets.images import write_mask
from weakclip.pipeline.context import open_run

SIZES = {"a.png": (60, 40), "b.png": (60, 40), "d e.png": (60, 40), "sub/c.png": (48, 64)}


@pytest.fixture
def base_run(tmp_path: Path) -> Path:
    """A run on photos of a cat and a dog whose pseudo masks are all background; no training."""
    root, run = tmp_path / "base", tmp_path / "run"
    (root / "images/sub").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        Image.new("RGB", size, (number, 0, 0)).save(root / "images" / name)
    (root / "labels.csv").write_text("image,labels\na.png,cat\nb.png,dog\nsub/c.png,cat;dog\nd e.png,cat;dog\n")
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "folder", "root": str(root)}}))
    dataset = open_run(run).train
    for index, name in enumerate(dataset.names):
        mask = np.zeros(dataset.size(index), np.uint8)
        write_mask(run / "3_pseudo_masks/masks" / f"{name}.png", mask, dataset.class_set.palette)
    return run
