"""Which masks to look at first: unusual areas, and an order of all images by how much speaks against their masks.

None of it reads a pixel label. Every figure can be fooled; docs/report.md says how, and how well each one did where
there were true masks to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from weakclip.inference.mask_statistics import ByClass, ImageStatistics, mean_over_classes

UNUSUAL = 3.5
"""An area score beyond this, either way, is called unusual (Iglewicz and Hoaglin's limit for modified z-scores)."""

WRONG_TAGS = 0.7
"""A share of the region bank's votes against an image's tags beyond this calls them wrong."""

SPREAD_FROM = 10
"""Images that a class needs for a spread of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFigures:
    """One image of the report.

    Args:
        statistics: what the stages noted of it.
        area_scores: class index → how many spreads its area lies above (or, negative, below) the class's median.
        doubt: 0…1, 1 is the worst: half the mean rank of what speaks against the mask among all images of the run, and
            one half more where the mask lacks a class of the labels or the tags look wrong, so that such images come
            first.
        leading: the key of the kind (`KINDS`) whose figure has the highest rank; empty where none is known.
    """

    statistics: ImageStatistics
    area_scores: ByClass
    doubt: float
    leading: str

    @property
    def area_score(self) -> float | None:
        """The largest area score of any class, without its sign."""
        return max(map(abs, self.area_scores.values()), default=None)


def figures_of(images: Sequence[ImageStatistics]) -> list[ImageFigures]:
    """Every image with what the others say of it."""
    scores = area_scores(images)
    doubts = _doubts(images, scores)
    return [
        ImageFigures(statistics=image, area_scores=score, doubt=doubt, leading=leading)
        for image, score, (doubt, leading) in zip(images, scores, doubts, strict=True)
    ]


def area_scores(images: Sequence[ImageStatistics]) -> list[ByClass]:
    """How unusual the area of each foreground class is, against the other images whose mask has the class.

    Of the logits `log(s / (1 − s))` of a class's shares, the modified z-score: `0.6745 (x − median) / MAD`, with the
    median absolute deviation (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993). A class with fewer than
    `SPREAD_FROM` images, or without a spread, has none.

    Returns:
        Class index → score, for every image.
    """
    places: dict[int, list[tuple[int, float]]] = {}
    for position, image in enumerate(images):
        for index, share in image.shares.items():
            if index != 0:
                places.setdefault(index, []).append((position, share))
    scores: list[ByClass] = [{} for _ in images]
    for index, entries in places.items():
        shares = np.clip([share for _, share in entries], 1e-4, 1 - 1e-4)
        logits = np.log(shares / (1 - shares))
        deviations = logits - np.median(logits)
        spread = np.median(np.abs(deviations))
        if len(entries) >= SPREAD_FROM and spread > 0:
            for (position, _), score in zip(entries, 0.6745 * deviations / spread, strict=True):
                scores[position][index] = float(score)
    return scores


def is_unusual(score: float | None) -> bool:
    """Whether an area score is beyond the limit."""
    return score is not None and abs(score) > UNUSUAL


def look_wrong(image: ImageStatistics) -> bool:
    """Whether an image's tags look wrong to a region bank."""
    return (image.tag_doubt or 0.0) > WRONG_TAGS


_RANKED = ("missed", "tags", "area", "confidence", "crf", "seed", "prediction")
"""The kinds whose figures are ranked, by their keys."""


def _doubts(images: Sequence[ImageStatistics], scores: Sequence[ByClass]) -> list[tuple[float, str]]:
    """Doubt of every image, and the key of what speaks most against it."""

    def against(image: ImageStatistics, score: ByClass) -> tuple[float | None, ...]:
        return (
            len(image.missed) / len(image.labels) if image.labels else 0.0,
            image.tag_doubt,
            max(map(abs, score.values()), default=None),
            _turned(image.confidence),
            image.crf_change,
            _turned(mean_over_classes(image.seed_mask)),
            _turned(mean_over_classes(image.mask_prediction)),
        )

    if not images:
        return []
    table = np.array([against(image, score) for image, score in zip(images, scores, strict=True)], dtype=float)
    places = np.stack([ranks(column) for column in table.T], axis=1)
    return [
        (float(np.nanmean(row)) / 2 + (0.5 if image.missed or look_wrong(image) else 0.0), _leading(image, row))
        for image, row in zip(images, places, strict=True)
    ]


def _leading(image: ImageStatistics, places: np.ndarray) -> str:
    if image.missed:
        return "missed"
    if look_wrong(image):
        return "tags"
    others = np.nan_to_num(places[2:], nan=-1.0)  # nothing is missing, and no tag looks wrong
    return _RANKED[2 + int(others.argmax())] if others.max() >= 0 else ""


def _turned(value: float | None) -> float | None:
    return None if value is None else 1 - value


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1 of the values that are known, equal ones sharing their mean rank; NaN elsewhere."""
    known = np.flatnonzero(~np.isnan(values))
    ranks = np.full(len(values), math.nan)
    if len(known):
        _, inverse, counts = np.unique(values[known], return_inverse=True, return_counts=True)
        last = np.cumsum(counts) - 1
        ranks[known] = (last - (counts - 1) / 2)[inverse] / max(1, len(known) - 1)
    return ranks


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to be a bad mask.

    Args:
        key: its name in the page.
        title: what is shown first, in words.
        meaning: one sentence for the reader.
        badness: from an image to a number, larger for worse; None where the image has no place in this list.
    """

    key: str
    title: str
    meaning: str
    badness: Callable[[ImageFigures], float | None]


def _missed(image: ImageFigures) -> float | None:
    statistics = image.statistics
    return len(statistics.missed) / len(statistics.labels) if statistics.missed else None


def _wrong(image: ImageFigures) -> float | None:
    return image.statistics.tag_doubt if look_wrong(image.statistics) else None


def _unusual(image: ImageFigures) -> float | None:
    return image.area_score if is_unusual(image.area_score) else None


KINDS = (
    Kind(
        key="doubt",
        title="Most doubtful",
        meaning="Highest mean rank over all the figures below: where most of them disagree with the mask.",
        badness=lambda image: image.doubt,
    ),
    Kind(
        key="missed",
        title="Tagged class missing",
        meaning="The mask has no pixel of a class that the image is tagged with.",
        badness=_missed,
    ),
    Kind(
        key="tags",
        title="Tags look wrong",
        meaning="Part of the mask looks like a class that is no tag, or no part looks like one that is.",
        badness=_wrong,
    ),
    Kind(
        key="area",
        title="Unusual area",
        meaning="A class fills far more, or far less, of the image than it does in the others.",
        badness=_unusual,
    ),
    Kind(
        key="confidence",
        title="Lowest confidence",
        meaning="The network gave the mask's classes a low probability, before the dense CRF.",
        badness=lambda image: _turned(image.statistics.confidence),
    ),
    Kind(
        key="crf",
        title="Largest CRF change",
        meaning="The dense CRF gave many pixels another class than the network had.",
        badness=lambda image: image.statistics.crf_change,
    ),
    Kind(
        key="seed",
        title="Seed disagrees",
        meaning="The mask contradicts the seed where the seed is sure.",
        badness=lambda image: _turned(mean_over_classes(image.statistics.seed_mask)),
    ),
    Kind(
        key="prediction",
        title="Network disagrees",
        meaning="The run's network, which is not told the labels, does not reproduce this mask.",
        badness=lambda image: _turned(mean_over_classes(image.statistics.mask_prediction)),
    ),
    Kind(
        key="truth",
        title="Lowest true score",
        meaning="Lowest mean IoU with the true mask; pixel labels were read only for this list.",
        badness=lambda image: _turned(mean_over_classes(image.statistics.mask_truth)),
    ),
)
"""The lists of worst cases, in the order in which they are shown."""


def reason(image: ImageFigures, names: Sequence[str]) -> str:
    """The strongest sign against a mask, in a few words; empty where nothing is known.

    Args:
        image: its figures.
        names: the classes, background first.
    """
    if image.leading == "missed":
        return f"no pixel of {', '.join(names[index] for index in image.statistics.missed)}"
    if image.leading == "tags":
        return wrong_tags(image.statistics, names)
    return next((kind.title.lower() for kind in KINDS if kind.key == image.leading), "")


def wrong_tags(image: ImageStatistics, names: Sequence[str]) -> str:
    """The signs of a region bank against an image's tags."""
    said = [
        f"nothing looks like {names[index]}" if index in image.labels else f"looks like untagged {names[index]}"
        for index, share in image.votes.items()
        if abs((index in image.labels) - share) > WRONG_TAGS
    ]
    return ", ".join(said)


def worst(images: Sequence[ImageFigures], kind: Kind, count: int) -> list[int]:
    """Positions of the worst `count` images of a kind, the worst first; of equals, the one with more doubt."""
    ranked = [
        (value, image.doubt, -index) for index, image in enumerate(images) if (value := kind.badness(image)) is not None
    ]
    return [-index for _, _, index in sorted(ranked, reverse=True)[:count]]
