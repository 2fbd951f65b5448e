"""Signs that training made the masks worse than the seeds it started from. No pixel label is read.

Good training contradicts seeds too: it removes what they took by mistake. So no small disagreement is a sign. Each sign
is a loss that better masks do not show: a class leaves most of its images, most sure seeds are contradicted, or half of
the foreground is gone. docs/report.md names the runs on which the limits were chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from weakclip.inference.mask_statistics import ImageStatistics

NEARLY_NONE = 0.05
"""A class is gone from an image whose mask has less than this share of the area of its sure seeds."""

NAMED = 5
"""How many lost classes the line of a warning names."""

ADVICE = "report.html shows the images; more steps (train.steps) may help, or loss.crf: null where it is set"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a difference between masks and seeds becomes a sign. Shares are 0…1.

    Args:
        gone: a foreground class is lost when it is gone from at least this share of the images with sure seeds of it.
        least_images: nothing is said of a class with fewer such images, or of fewer images in all.
        foreground_kept: least share of the sure foreground seeds that masks keep; mean over the images of a class, and
            then over the classes.
        background_kept: the same of the sure background seeds, mean over the images.
        foreground_left: least area of the masks' foreground, as a share of the dense seeds' foreground.
    """

    gone: float = 0.75
    least_images: int = 3
    foreground_kept: float = 0.3
    background_kept: float = 0.7
    foreground_left: float = 0.5


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """The fate of the sure seeds of one class.

    Args:
        index: the class; 0 is the background.
        images: images with sure seeds of it.
        share: share of the pixels that these seeds are, 0…1, mean over these images.
        gone: of them, those whose mask has lost the class.
        kept: share of the seed's pixels to which the mask gives the class too, 0…1, mean over these images.
        kept_where_left: the same over the images whose mask still has the class; None where none has.
    """

    index: int
    images: int
    share: float
    gone: int
    kept: float
    kept_where_left: float | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """The fate of the seeds of all images; shares are 0…1, None where nothing is known.

    Args:
        classes: the classes with sure seeds, by index.
        lost: foreground classes that are gone from most of their images.
        foreground_kept: mean share of the sure foreground seeds that masks keep.
        background_kept: the same of the background.
        foreground_seeds: share of the pixels that the dense seeds give to the foreground, mean over the images.
        foreground_masks: the same of the masks.
        signs: the signs that are there: "lost classes", "foreground seeds", "background seeds", "foreground area".
    """

    classes: tuple[ClassChange, ...]
    lost: tuple[int, ...]
    foreground_kept: float | None
    background_kept: float | None
    foreground_seeds: float | None
    foreground_masks: float | None
    signs: tuple[str, ...]


def seed_change(images: Iterable[ImageStatistics], limits: Limits = LIMITS) -> Change:
    """The fate of the seeds, and the signs of harm.

    Args:
        images: figures of the images. Those without `seed_shares` say nothing; `dense_shares` serve one sign only.
        limits: where a difference becomes a sign.
    """
    kept: dict[int, list[tuple[float, float, bool]]] = {}
    areas: list[tuple[float, float]] = []
    for image in images:
        for index, share in image.seed_shares.items():
            gone = image.shares.get(index, 0.0) < NEARLY_NONE * share
            kept.setdefault(index, []).append((share, image.seed_kept.get(index, 0.0), gone))
        if image.dense_shares:
            areas.append((1 - image.dense_shares.get(0, 0.0), 1 - image.shares.get(0, 0.0)))
    classes = tuple(_class_change(index, kept[index]) for index in sorted(kept))
    judged = [each for each in classes if each.images >= limits.least_images]
    lost = tuple(each.index for each in judged if each.index and each.gone >= limits.gone * each.images)
    foreground = mean_if_any([each.kept for each in judged if each.index])
    background = mean_if_any([each.kept for each in judged if not each.index])
    enough = len(areas) >= limits.least_images
    seeds, masks = (mean_if_any(column) if enough else None for column in zip(*areas or [(0.0, 0.0)], strict=True))
    signs = {
        "lost classes": bool(lost),
        "foreground seeds": foreground is not None and foreground < limits.foreground_kept,
        "background seeds": background is not None and background < limits.background_kept,
        "foreground area": seeds is not None and masks is not None and masks < limits.foreground_left * seeds,
    }
    return Change(
        classes=classes,
        lost=lost,
        foreground_kept=foreground,
        background_kept=background,
        foreground_seeds=seeds,
        foreground_masks=masks,
        signs=tuple(sign for sign, there in signs.items() if there),
    )


def _class_change(index: int, images: Sequence[tuple[float, float, bool]]) -> ClassChange:
    left = [kept for _, kept, gone in images if not gone]
    return ClassChange(
        index=index,
        images=len(images),
        share=statistics.fmean(share for share, _, _ in images),
        gone=len(images) - len(left),
        kept=statistics.fmean(kept for _, kept, _ in images),
        kept_where_left=mean_if_any(left),
    )


def mean_if_any(values: Sequence[float]) -> float | None:
    """Mean of some numbers; None where there are none."""
    return statistics.fmean(values) if values else None


def warning(change: Change, names: Sequence[str]) -> str | None:
    """One line for the user: what the signs are, and what may help. None where there is no sign.

    Args:
        change: of `seed_change`.
        names: of the classes by index.
    """
    if not change.signs:
        return None
    lost_of = {each.index: each for each in change.classes}
    parts = [
        f"{names[index]} is gone from {lost_of[index].gone} of {lost_of[index].images} images" for index in change.lost
    ]
    if len(parts) > NAMED:
        parts = [*parts[:NAMED], f"{len(parts) - NAMED} more classes are gone from most of theirs"]
    if "foreground seeds" in change.signs:
        parts.append(f"masks keep {change.foreground_kept:.0%} of the sure foreground seeds")
    if "background seeds" in change.signs:
        parts.append(f"masks keep {change.background_kept:.0%} of the sure background seeds")
    if "foreground area" in change.signs:
        parts.append(
            f"foreground fell from {change.foreground_seeds:.0%} to {change.foreground_masks:.0%} of the pixels"
        )
    return f"the masks look worse than the seeds they were trained on: {', '.join(parts)}; {ADVICE}"


def change_record(change: Change, names: Sequence[str]) -> dict[str, Any]:
    """The change as JSON for `metrics.json`: class names in place of indices, shares to four digits."""
    record = _rounded(asdict(change))
    for entry in record["classes"]:
        entry["class"] = names[entry.pop("index")]
    return {**record, "lost": [names[index] for index in change.lost]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
