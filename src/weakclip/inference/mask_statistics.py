"""Figures of one image's masks that need no pixel label: areas, agreement of stages, confidence; and their file.

A run keeps one JSON line an image. Lines are added while masks are made, by any thread, and put in order at the end, so
that a stopped run goes on, and no more than an index of the lines is in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import RunError
from weakclip.store.lines import read_lines

STATISTICS = "statistics.jsonl"
"""The file in a stage's folder, one line an image."""

DIGITS = 4
PAIRS = {
    "seed_mask": ("seed", "mask"),
    "mask_prediction": ("mask", "prediction"),
    "seed_prediction": ("seed", "prediction"),
    "mask_truth": ("mask", "truth"),
}
"""Which two masks each agreement of `ImageStatistics` compares."""

ByClass = dict[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStatistics:
    """Figures of one image's mask. What a stage has not made is None, or has no entries.

    Args:
        name: the image.
        size: height and width, pixels.
        labels: foreground class indices that the image is tagged with.
        shares: class index → share of the mask's pixels, 0…1; classes without a pixel are absent.
        undecided: share of the seed's pixels at 255, 0…1.
        seed_shares: class index → share of the pixels that the seed gives to the class, 0…1.
        seed_kept: class index → of those pixels, the share to which the mask gives the same class, 0…1.
        dense_shares: class index → share of the pixels of the dense seed, which decides every pixel, 0…1.
        confidence: mean over the pixels of the network's probability for the class that the mask gives, before the
            dense CRF, 0…1.
        class_confidence: the same over the pixels of each class.
        crf_change: share of the pixels whose class the dense CRF changed, 0…1.
        seed_mask: class index → IoU of seed and mask on the pixels where the seed is decided, 0…1.
        mask_prediction: class index → IoU of mask and the network's prediction without labels.
        seed_prediction: class index → IoU of seed and prediction where the seed is decided.
        mask_truth: class index → IoU of mask and true mask, where there is one.
        votes: foreground class → the largest share of votes of a region bank on any region of the mask, 0…1: of the
            tagged classes and of others that have votes.
    """

    name: str
    size: tuple[int, int]
    labels: tuple[int, ...]
    shares: ByClass
    undecided: float | None = None
    seed_shares: ByClass = field(default_factory=dict)
    seed_kept: ByClass = field(default_factory=dict)
    dense_shares: ByClass = field(default_factory=dict)
    confidence: float | None = None
    class_confidence: ByClass = field(default_factory=dict)
    crf_change: float | None = None
    seed_mask: ByClass = field(default_factory=dict)
    mask_prediction: ByClass = field(default_factory=dict)
    seed_prediction: ByClass = field(default_factory=dict)
    mask_truth: ByClass = field(default_factory=dict)
    votes: ByClass = field(default_factory=dict)

    @property
    def missed(self) -> tuple[int, ...]:
        """Tagged classes without a pixel in the mask."""
        return tuple(label for label in self.labels if label not in self.shares)

    @property
    def tag_doubt(self) -> float | None:
        """How much the region bank speaks against the tags, 0…1: the largest share of votes for a class that is no tag,
        or withheld from one that is; None where nobody voted."""
        against = [1 - share if index in self.labels else share for index, share in self.votes.items()]
        return max(against, default=None)


def compare_masks(name: str, labels: tuple[int, ...], masks: Mapping[str, np.ndarray]) -> ImageStatistics:
    """The figures that follow from an image's masks.

    Args:
        name: the image.
        labels: its foreground class indices.
        masks: "mask", and any of "seed", "dense", "prediction" and "truth": `(H, W)` uint8, 255 where no class is
            given.
    """
    mask = masks["mask"]
    seed = masks.get("seed")
    agreement: dict[str, Any] = {
        pair: class_iou(masks[first], masks[second])
        for pair, (first, second) in PAIRS.items()
        if first in masks and second in masks
    }
    return ImageStatistics(
        name=name,
        size=(mask.shape[0], mask.shape[1]),
        labels=labels,
        shares=class_shares(mask),
        undecided=None if seed is None else _rounded((seed == IGNORE_INDEX).mean()),
        seed_shares={} if seed is None else class_shares(seed),
        seed_kept={} if seed is None else class_kept(seed, mask),
        dense_shares=class_shares(masks["dense"]) if "dense" in masks else {},
        **agreement,
    )


def class_shares(mask: np.ndarray) -> ByClass:
    """Share of the pixels of each class that a mask has, 0…1; 255 is no class, but counts as area.

    >>> class_shares(np.array([[0, 0, 2, 255]], np.uint8))
    {0: 0.5, 2: 0.25}
    """
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORE_INDEX]
    return {int(index): _rounded(counts[index] / mask.size) for index in np.flatnonzero(counts)}


def class_iou(first: np.ndarray, second: np.ndarray) -> ByClass:
    """Intersection over union of each class that either mask has, over the pixels where both are decided.

    Args:
        first: `(H, W)` uint8 class indices, 255 where no class is given.
        second: the same.

    Returns:
        Class index → 0…1; no entry for a class that neither has there.

    >>> class_iou(np.array([[0, 1, 1, 2]], np.uint8), np.array([[0, 1, 0, 255]], np.uint8))
    {0: 0.5, 1: 0.5}
    """
    decided = (first != IGNORE_INDEX) & (second != IGNORE_INDEX)
    one, other = first[decided], second[decided]
    both = np.bincount(one[one == other], minlength=256)
    union = np.bincount(one, minlength=256) + np.bincount(other, minlength=256) - both
    return {int(index): _rounded(both[index] / union[index]) for index in np.flatnonzero(union)}


def class_kept(seed: np.ndarray, mask: np.ndarray) -> ByClass:
    """Of the pixels that `seed` gives to a class, the share to which `mask` gives it too; only classes of the seed.

    >>> class_kept(np.array([[0, 1, 1, 255]], np.uint8), np.array([[2, 1, 0, 1]], np.uint8))
    {0: 0.0, 1: 0.5}
    """
    seeded = np.bincount(seed.ravel(), minlength=256)[:IGNORE_INDEX]
    kept = np.bincount(seed[seed == mask], minlength=256)
    return {int(index): _rounded(kept[index] / seeded[index]) for index in np.flatnonzero(seeded)}


def class_means(values: np.ndarray, mask: np.ndarray) -> ByClass:
    """Mean of `values`, `(H, W)` floating point, over the pixels of each class of `mask`."""
    counts = np.bincount(mask.ravel(), minlength=256)
    sums = np.bincount(mask.ravel(), weights=values.ravel(), minlength=256)
    return {int(index): _rounded(sums[index] / counts[index]) for index in np.flatnonzero(counts)}


def mean_over_classes(values: Mapping[int, float]) -> float | None:
    """Mean of a figure by class, the background included; None where there is none."""
    return sum(values.values()) / len(values) if values else None


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)


def statistics_line(statistics: ImageStatistics) -> dict[str, Any]:
    """The line of one image in a `LineLog`: its figures, without those that are not known."""
    entries = dataclasses.asdict(statistics)
    return {key: value for key, value in entries.items() if value is not None and value != {}}


def read_statistics(path: Path | str) -> Iterator[ImageStatistics]:
    """The figures of every image of a stage, one after the other; none where there is no such file.

    Of a stage that is not finished, an image may come twice: the later one counts.

    Raises:
        RunError: lines of another version.
    """
    for entry in read_lines(Path(path)):
        yield _from_plain(entry, Path(path))


def _from_plain(entry: dict[str, Any], path: Path) -> ImageStatistics:
    try:
        values: dict[str, Any] = {
            key: {int(index): float(number) for index, number in value.items()} if isinstance(value, dict) else value
            for key, value in entry.items()
        }
        for key in ("size", "labels"):
            values[key] = tuple(map(int, values[key]))
        return ImageStatistics(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise RunError(
            f"{path}: no statistics of this version ({error}); delete {path.parent}, and run again"
        ) from None
