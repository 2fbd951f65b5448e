"""A run folder made by hand: images with ordinary and hostile names, their masks, and no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from weakclip.classes import VOC12
from weakclip.images import write_json, write_mask

HOSTILE = "<script>window.broken = 1<script>"
HOSTILE_CLASS = "<img src=x onerror=window.broken=1>"
NAMES = (HOSTILE, "cats/one", "cats/two", "dogs/three")
LABELS = (HOSTILE_CLASS, "cat", "cat", "dog")
"""In the order of the data set; classes are in the order of their names: the hostile one, cat, dog."""

STAGES = {"1_seeds/masks": 255, "3_pseudo_masks/masks": 1, "5_evaluate/masks": 2}
"""Folder of masks → the class of their right half."""


def write_manifest(run: Path, key: str) -> None:
    """A manifest in which the pseudo masks were made under `key`."""
    write_json(run / "manifest.json", {"stages": {"pseudo_masks": {"key": key, "done": True}}})


def make_review_run(folder: Path) -> Path:
    """Four images of 24 x 16 pixels with seeds, pseudo masks, predictions and, but for the first one, true masks.

    Args:
        folder: gets the data set, `mine`, and the run, `a run`.
    """
    root, run = folder / "mine", folder / "a run"
    for number, name in enumerate(NAMES):
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (40 * number, 90, 200)).save(path)
        if number:
            write_mask(root / "masks" / f"{name}.png", np.zeros((16, 24), np.uint8), VOC12.palette)
        for stage, value in STAGES.items():
            mask = np.zeros((16, 24), np.uint8)
            mask[:, 12:] = value
            write_mask(run / stage / f"{name}.png", mask, VOC12.palette)
    rows = [f"{name}.png,{label}" for name, label in zip(NAMES, LABELS, strict=True)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    data = {"dataset": "folder", "root": str(root), "val_split": "train"}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data, "clip": {"source": "demo"}}))
    write_manifest(run, "first")
    return run
