"""Scores of `real_photos.py`: mean IoU with bootstrap intervals, a table, and a sheet of pictures, the worst first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets import VOC12Dataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import read_mask, resize_rgb, write_jpeg
from weakclip.datasets.looks import screen_palette
from weakclip.datasets.voc import MASK_FOLDERS, find_voc_root
from weakclip.inference.metrics import ConfusionMatrix, bootstrap_iou, iou_of
from weakclip.pipeline.pictures import laid_over
from weakclip.store.progress import track

SCORED = ("background", "cat", "cow", "dog", "horse", "sheep", "person")
"""Classes of the first mean: those that the photos show often."""
TILE = (160, 120)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Masks that are scored.

    Args:
        name: a row of the table.
        split: "train_aug" or "val".
        folder: in the folder of a run, one PNG an image.
        some: whether there are masks of every fifth image only, and of the first random seed only.
    """

    name: str
    split: str
    folder: str
    some: bool = False


EVERY = 5
"""Of the training photos, what is not made by the run itself is made for every fifth: minutes, not an hour."""
SUBJECTS = (
    Subject(name="seeds", split="train_aug", folder="1_seeds/dense"),
    Subject(name="pseudo masks", split="train_aug", folder="3_pseudo_masks/masks"),
    Subject(name="seeds, every fifth photo", split="train_aug", folder="1_seeds/dense", some=True),
    Subject(name="seeds without CRF", split="train_aug", folder="scored/train_aug/seeds_without_crf/masks", some=True),
    Subject(name="WeakCLIP", split="train_aug", folder="scored/train_aug/weakclip/masks", some=True),
    Subject(name="pseudo masks, every fifth photo", split="train_aug", folder="3_pseudo_masks/masks", some=True),
    Subject(
        name="pseudo masks, labels unknown",
        split="train_aug",
        folder="scored/train_aug/masks_no_labels/masks",
        some=True,
    ),
    Subject(name="seeds without CRF", split="val", folder="scored/val/seeds_without_crf/masks"),
    Subject(name="seeds", split="val", folder="scored/val/seeds/masks"),
    Subject(name="WeakCLIP", split="val", folder="scored/val/weakclip/masks"),
    Subject(name="pseudo masks", split="val", folder="scored/val/masks/masks"),
    Subject(name="WeakCLIP, labels unknown", split="val", folder="scored/val/weakclip_no_labels/masks"),
    Subject(name="pseudo masks, labels unknown", split="val", folder="scored/val/masks_no_labels/masks"),
)

WITH_SALIENCY = tuple(
    Subject(name="pseudo masks, saliency", split=split, folder=f"scored/{split}/masks_with_saliency/masks", some=some)
    for split, some in (("train_aug", True), ("val", False))
)
"""Where `real_photos.py` is given saliency maps."""


class Truth:
    """The pixel labels of photos, read where they are scored.

    Args:
        roots: VOC2012 folders that have masks.
        dataset: the photos.
    """

    def __init__(self, roots: Sequence[Path], dataset: VOC12Dataset) -> None:
        folders = [find_voc_root(root) / folder for root in roots for folder in MASK_FOLDERS]
        self.dataset = dataset
        self.paths = {
            name: next(path for folder in folders if (path := folder / f"{name}.png").is_file())
            for name in dataset.names
        }

    def __len__(self) -> int:
        return len(self.paths)

    def overlaps(self, folder: Path, *, some: bool = False) -> np.ndarray:
        """`(N, 2, K)` int64, the overlaps of every photo, or of every fifth."""
        found, paths = [], list(self.paths.items())[:: EVERY if some else 1]
        for name, path in track(paths, f"scoring {folder.parent.name}/{folder.name}", total=len(paths)):
            matrix = ConfusionMatrix(VOC12.num_classes)
            matrix.update(read_mask(folder / f"{name}.png"), read_mask(path))
            found.append(matrix.overlaps())
        return np.stack(found)


def score(subject: Subject, runs: Sequence[Path], truth: Truth) -> dict[str, Any]:
    """One row: mean IoU of the seven classes and of all, per class, of every run; intervals over images.

    Args:
        subject: which masks.
        runs: the folders of the random seeds.
        truth: of its split.
    """
    columns = [VOC12.index(name) for name in SCORED]
    row: dict[str, Any] = {"name": subject.name, "split": subject.split, "runs": []}
    for run in runs:
        overlaps = truth.overlaps(run / subject.folder, some=subject.some)
        iou, drawn = iou_of(overlaps.sum(axis=0)), bootstrap_iou(overlaps)
        row["runs"].append(
            {
                "seven": float(np.nanmean(iou[columns])),
                "seven_interval": np.percentile(np.nanmean(drawn[:, columns], axis=1), [2.5, 97.5]).tolist(),
                "all": float(np.nanmean(iou)),
                "all_interval": np.percentile(np.nanmean(drawn, axis=1), [2.5, 97.5]).tolist(),
                "classes": {
                    name: None if np.isnan(value) else float(value)
                    for name, value in zip(VOC12.names, iou, strict=True)
                },
            }
        )
    return row


def gain(subject: Subject, over: Subject, run: Path, truth: Truth) -> list[float]:
    """95 % interval of the difference of the first mean between two kinds of masks, by a paired bootstrap."""
    columns = [VOC12.index(name) for name in SCORED]
    drawn = [bootstrap_iou(truth.overlaps(run / each.folder, some=subject.some)) for each in (subject, over)]
    one, other = (np.nanmean(each[:, columns], axis=1) for each in drawn)
    interval: list[float] = np.percentile(one - other, [2.5, 97.5]).tolist()
    return interval


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, per cent: mean and spread of the runs, the interval over images of the first run, and the classes."""
    shown = " | ".join(SCORED)
    lines = [
        f"| what | split | seven classes | 95 % interval | all classes | {shown} |",
        "|" + "---|" * (5 + len(SCORED)),
    ]
    for row in rows:
        runs = row["runs"]
        low, high = (100 * value for value in runs[0]["seven_interval"])
        classes = [_mean([run["classes"][name] for run in runs]) for name in SCORED]
        cells = " | ".join(f"{value:.1f}" for value in classes)
        seven, every = ([100 * run[key] for run in runs] for key in ("seven", "all"))
        means = f"{_spread(seven)} | {low:.1f} to {high:.1f} | {_spread(every)}"
        lines.append(f"| {row['name']} | {row['split']} | {means} | {cells} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> float:
    known = [100 * value for value in values if value is not None]
    return statistics.mean(known) if known else float("nan")


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def sheet(path: Path, run: Path, split: str, truth: Truth, *, count: int = 24) -> None:
    """Photo, seeds, pseudo masks and truth of the photos whose masks are worst, two a row."""
    subjects = {subject.name: subject for subject in SUBJECTS if subject.split == split}
    folders = [run / subjects[name].folder for name in ("seeds", "pseudo masks")]
    hits, unions = truth.overlaps(folders[-1]).sum(axis=2).T
    right = 2 * hits / np.maximum(1, hits + unions)  # the share of right pixels: each wrong one is in two unions
    rows = []
    for index in np.argsort(right, kind="stable")[:count]:
        name, image = truth.dataset.names[index], truth.dataset.image(int(index))
        masks = [*(read_mask(folder / f"{name}.png") for folder in folders), read_mask(truth.paths[name])]
        pictures = [image, *(laid_over(image, mask, screen_palette(VOC12)) for mask in masks)]
        rows.append(np.concatenate([_tile(picture) for picture in pictures], axis=1))
    if len(rows) % 2:
        rows.append(np.full_like(rows[0], 255))
    write_jpeg(path, np.concatenate([np.concatenate(rows[i : i + 2], axis=1) for i in range(0, len(rows), 2)]))


def _tile(picture: np.ndarray) -> np.ndarray:
    return resize_rgb(picture, (TILE[1], TILE[0]))
