"""A run folder made by hand: images with ordinary and hostile names, their masks, and no training."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask
from weakclip.inference.mask_statistics import STATISTICS, compare_masks, statistics_line
from weakclip.review.folder import ReviewFolder
from weakclip.review.serving import listening
from weakclip.store.files import write_json
from weakclip.store.lines import LineLog

HOSTILE = "<script>window.broken = 1<script>"
HOSTILE_CLASS = "<img src=x onerror=window.broken=1>"
NAMES = (HOSTILE, "cats/one", "cats/two", "dogs/three")
LABELS = (HOSTILE_CLASS, "cat", "cat", "dog")
"""In the order of the data set; classes are in the order of their names: the hostile one, cat, dog."""

STAGES = {"1_seeds/masks": 255, "3_pseudo_masks/masks": 1, "5_evaluate/train_predictions/masks": 2}
"""Folder of masks → the class of their right half."""


def write_manifest(run: Path, key: str) -> None:
    """A manifest in which the pseudo masks were made under `key`."""
    write_json(run / "manifest.json", {"format": 1, "stages": {"pseudo_masks": {"key": key, "done": True}}})


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
    data = {"dataset": "folder", "root": str(root)}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": data, "clip": {"source": "demo"}}))
    write_manifest(run, "first")
    return run


def write_figures(run: Path, confidences: Mapping[str, float]) -> None:
    """What a run notes of its pseudo masks: image → mean confidence; the least confident is the most doubtful."""
    folder = run / "3_pseudo_masks"
    names = ("background", HOSTILE_CLASS, "cat", "dog")
    entries = [{"name": name, "color": color} for name, color in zip(names, VOC12.colors, strict=False)]
    write_json(folder / "metrics.json", {"classes": entries})
    log = LineLog(folder / STATISTICS)
    for name, confidence in confidences.items():
        figures = compare_masks(name, (), {"mask": np.zeros((16, 24), np.uint8)})
        log.add(statistics_line(dataclasses.replace(figures, confidence=confidence)))


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a run's page, served by a thread; its token is "token"."""
    import uvicorn

    from weakclip.review.server import build_site

    listener = listening("127.0.0.1", 0)
    site = build_site(ReviewFolder(run), token="token")
    server = uvicorn.Server(uvicorn.Config(site, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
