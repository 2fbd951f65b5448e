"""Figures of the masks of a run, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weakclip.inference.mask_statistics import ByClass
from weakclip.report.doubts import ImageFigures, is_unusual
from weakclip.report.worse_masks import mean_if_any

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class over all images of a run; shares and IoUs 0…1, None where nothing is known.

    Args:
        index: the class; 0 is the background.
        tagged: images that are tagged with it; None for the background.
        covered: tagged images whose mask has it (for the background: all images whose mask has it).
        untagged: images whose mask has it without the tag.
        areas: quantiles `QUANTILES` of its share in the masks that have it.
        unusual: images in which its area is unusual.
        confidence: mean over the images whose mask has it.
        seed_mask: mean IoU of seed and mask over the images where either has it.
        mask_prediction: the same of mask and the network's prediction without labels.
    """

    index: int
    tagged: int | None
    covered: int
    untagged: int
    areas: tuple[float, ...]
    unusual: int
    confidence: float | None
    seed_mask: float | None
    mask_prediction: float | None

    @property
    def coverage(self) -> float | None:
        """Share of the tagged images whose mask has the class."""
        return self.covered / self.tagged if self.tagged else None


def class_figures(images: Sequence[ImageFigures], num_classes: int) -> list[ClassFigures]:
    """The figures of every class, in one pass over the images."""
    gathered = [_Gathered() for _ in range(num_classes)]
    for image in images:
        for label in image.statistics.labels:
            gathered[label].tagged += 1
        for index, share in image.statistics.shares.items():
            figures = gathered[index]
            figures.areas.append(share)
            figures.covered += index in image.statistics.labels or index == 0
            figures.unusual += is_unusual(image.area_scores.get(index))
        for part in ("class_confidence", "seed_mask", "mask_prediction"):
            values: ByClass = getattr(image.statistics, part)
            for index, value in values.items():
                getattr(gathered[index], part).append(value)
    return [each.figures(index) for index, each in enumerate(gathered)]


class _Gathered:
    def __init__(self) -> None:
        self.tagged = self.covered = self.unusual = 0
        self.areas: list[float] = []
        self.class_confidence: list[float] = []
        self.seed_mask: list[float] = []
        self.mask_prediction: list[float] = []

    def figures(self, index: int) -> ClassFigures:
        return ClassFigures(
            index=index,
            tagged=self.tagged if index else None,
            covered=self.covered,
            untagged=len(self.areas) - self.covered,
            areas=tuple(np.quantile(self.areas, QUANTILES).tolist()) if self.areas else (),
            unusual=self.unusual,
            confidence=mean_if_any(self.class_confidence),
            seed_mask=mean_if_any(self.seed_mask),
            mask_prediction=mean_if_any(self.mask_prediction),
        )
