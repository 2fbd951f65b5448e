"""A run with networks of random weights, and photos of odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.modeling import build_weakclip, save_weakclip
from weakclip.segmenters.segmenter import build_segmenter, save_segmenter

CLASSES = ClassSet(names=("background", "cat", "dog"), colors=((0, 0, 0), (250, 10, 10), (10, 10, 250)))


@pytest.fixture
def class_set() -> ClassSet:
    return CLASSES


@pytest.fixture
def trained_run(make_tiny_clip: Callable[..., FrozenCLIP], clip_folder: Path, tmp_path: Path) -> Path:
    """A run folder with a WeakCLIP in `2_train` and a small network in `4_retrain`, both untrained."""
    run = tmp_path / "run"
    inference = {"scales": [1.0], "flip": True, "crop": 48, "stride": 32, "fit_crop": False, "batch_size": 3}
    settings = {
        "data": {"dataset": "folder", "root": "gone"},
        "clip": {"source": str(clip_folder)},
        "pseudo_masks": {"inference": {**inference, "flip": False}, "crf": {"kernels": [{"sxy": 1, "weight": 1}]}},
        "evaluate": {"inference": inference, "crf": None},
    }
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.manual_seed(0)
    clip = make_tiny_clip()
    clip.source = str(clip_folder)
    numbers = {"co_attention_width": 8, "co_attention_heads": 2, "co_attention_layers": 1, "decoder_channels": 8}
    save_weakclip(build_weakclip(clip, CLASSES, **numbers), run / "2_train")
    save_segmenter(build_segmenter("small", CLASSES), run / "4_retrain")
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images, some of one size, two with one stem, and one file that is no image."""
    folder = tmp_path / "photos"
    rng = np.random.default_rng(1)
    sizes = {"a.jpg": (33, 47), "a.png": (33, 47), "b/a.jpg": (33, 47), "b/c.PNG": (61, 40), "d.jpg": (20, 75)}
    for name, (height, width) in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    (folder / "e.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder
