"""A run folder without a run: hostile names, figures and pictures of 130 small images, most of them sound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from weakclip.datasets.images import write_jpeg, write_png
from weakclip.inference.mask_statistics import STATISTICS, compare_masks, statistics_line
from weakclip.store.files import write_json
from weakclip.store.layout import CAPTIONS, STRIPS, strip_path
from weakclip.store.lines import LineLog

HOSTILE = '<script>alert("1")</script>'
CLASSES = [
    {"name": name, "color": color}
    for name, color in (("background", [0, 0, 0]), (HOSTILE, [1, 2, 255]), ("a \"dog\" & 'cat'", [200, 90, 10]))
]
BAD = {
    7: 'sub/</script><img src=x onerror="alert(1)">',
    8: "100% #1 & ?",
    9: "</td>'\"",
}
COUNT = 130


def image_name(index: int) -> str:
    """Ordinary names but for those of `BAD`."""
    return BAD.get(index, f"image_{index:03}")


def score(subject: str, split: str, mean_iou: float) -> dict[str, object]:
    """A row of `metrics.json`."""
    per_class = {"background": 0.9, HOSTILE: mean_iou, CLASSES[2]["name"]: None}
    return {
        "subject": subject,
        "split": split,
        "images": 3,
        "crf": "no",
        "multi_scale": "no",
        "mean_iou": mean_iou,
        "pixel_accuracy": 0.8,
        "iou": per_class,
        "precision": per_class,
        "recall": per_class,
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run whose evaluation was made from earlier seeds; nothing is known of single images."""
    return make_run(tmp_path / "my run")


@pytest.fixture
def images_folder(kept: Path, tmp_path: Path) -> Path:
    """The same run with figures and strips of `COUNT` images, and nothing stale."""
    if not (kept / "report").exists():
        add_images(make_run(kept / "report"))
    return Path(shutil.copytree(kept / "report", tmp_path / "my run"))


def make_run(folder: Path) -> Path:
    """Stages, one score, one loss curve, one row of pictures."""
    stages = {
        "seeds": {"key": "a", "inputs": {"data": "x"}, "done": True, "seconds": 61.0},
        "train": {"key": "b", "inputs": {"seeds": "a"}, "done": True, "seconds": 5.0},
        "evaluate": {"key": "c", "inputs": {"seeds": "older"}, "done": True, "seconds": 1.0},
    }
    write_json(folder / "manifest.json", {"format": 2, "stages": stages})
    write_json(folder / "5_evaluate/metrics.json", {"scores": [score("seeds", "train", 0.512)]})
    write_png(folder / "5_evaluate/pictures/0_image.png", np.zeros((4, 4, 3), np.uint8))
    row = {"name": HOSTILE, "split": "train", "labels": [HOSTILE], "pictures": {"image": "0_image.png"}}
    write_json(folder / "5_evaluate/pictures.json", {"classes": CLASSES, "rows": [row]})
    lines = [json.dumps({"step": step, "loss": 1 / (1 + step), "seeding_loss": 0.5}) for step in range(1, 1001)]
    (folder / "2_train").mkdir()
    (folder / "2_train/log.jsonl").write_text("\n".join([*lines, '{"step": 1001, "lo']))
    return folder


def masks_of(index: int) -> dict[str, np.ndarray]:
    """Masks 12 × 16 of one image. Number 3 misses class 2, number 5 is filled by class 1, number 6 has no agreement."""
    mask = np.zeros((12, 16), np.uint8)
    mask[2 : 5 + index % 4, 2:8] = 1
    mask[8:11, 9 : 12 + index % 3] = 2
    if index == 3:
        mask[mask == 2] = 0
    if index == 5:
        mask[:] = 1
        mask[11, 15] = 2
    seed, prediction = mask.copy(), np.roll(mask, 1, axis=1)
    seed[0] = 255
    if index == 6:
        seed, prediction = seed * 0, prediction * 0
    return {"seed": seed, "mask": mask, "prediction": prediction}


def add_images(run_folder: Path) -> None:
    """Figures and strips of `COUNT` images; the evaluation is no longer stale."""
    manifest = json.loads((run_folder / "manifest.json").read_text())
    records = manifest["stages"]
    records["pseudo_masks"] = {"key": "p", "inputs": {"train": "b"}, "done": True, "seconds": 2.0}
    records["evaluate"]["inputs"] = {"seeds": "a", "pseudo_masks": "p"}
    write_json(run_folder / "manifest.json", manifest)
    scores = [score("seeds", "train", 0.512), score("pseudo masks", "train", 0.6)]
    write_json(run_folder / "5_evaluate/metrics.json", {"scores": scores})
    stages = {"3_pseudo_masks": ["image", "seed", "pseudo mask"], "5_evaluate": ["prediction"]}
    for stage, captions in stages.items():
        folder = run_folder / stage
        log = LineLog(folder / STATISTICS)
        write_json(folder / STRIPS / CAPTIONS, captions)
        for index in range(COUNT):
            masks = masks_of(index)
            if stage == "3_pseudo_masks":
                del masks["prediction"]
            figures = compare_masks(image_name(index), (1, 2), masks)
            if stage == "3_pseudo_masks":
                figures = dataclasses.replace(
                    figures, confidence=0.9 - 0.002 * index, class_confidence={1: 0.8}, crf_change=0.001 * index
                )
            log.add(statistics_line(figures))
            colors = [[9, 9, 9], [250, 0, 0], [0, 250, 0]][: len(captions)]
            strip = np.concatenate([np.full((12, 16, 3), color, np.uint8) for color in colors], axis=1)
            write_jpeg(strip_path(folder, image_name(index)), strip)
