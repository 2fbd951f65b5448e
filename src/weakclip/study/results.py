"""The results of a study of variants so far, and its `study.json`."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weakclip.errors import RunError
from weakclip.report.figures import percent
from weakclip.store.files import write_json
from weakclip.store.keys import ResultKey
from weakclip.study.record import RECORD, number, read_record

logger = logging.getLogger("weakclip")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One variant with one random seed.

    Args:
        variant: its name.
        seed: the random seed.
        mean_iou: of the pseudo masks on the training split, 0…1.
        trained_parameters: how many numbers were trained; 0 where nothing was.
    """

    variant: str
    seed: int
    mean_iou: float
    trained_parameters: int


@dataclass(frozen=True, kw_only=True)
class VariantStudy:
    """A comparison of variants, finished or not.

    Args:
        folder: where it is kept.
        subject: what is studied, in words.
        split: the split whose masks are read: a tuning set.
        images: its images.
        variants: the rows of the table, in order.
        seeds: the random seeds.
        results: what is finished; also of variants and seeds that were asked for at another time.
    """

    folder: Path
    subject: str
    split: str
    images: int
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[Result, ...] = ()

    def find(self, variant: str, seed: int) -> Result | None:
        """The result of a variant with a random seed, where it is finished."""
        return next((each for each in self.results if (each.variant, each.seed) == (variant, seed)), None)

    def of(self, variant: str) -> list[Result]:
        """The results of a variant, one for each of the study's random seeds that is finished."""
        found = (self.find(variant, seed) for seed in self.seeds)
        return [result for result in found if result is not None]


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for fewer than two values.

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def finished_results(folder: Path) -> tuple[Result, ...]:
    """Reads what an earlier call has written; nothing where there was no such call.

    Raises:
        RunError: a damaged record.
    """
    if not (folder / RECORD).is_file():
        return ()
    entries = read_record(folder, "results")
    try:
        return tuple(Result(**{**entry, "mean_iou": number(entry["mean_iou"])}) for entry in entries)
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / RECORD}: damaged results ({error}); choose a new folder") from None


def measured(study: VariantStudy, key: ResultKey, measure: Callable[[str, int], Result]) -> VariantStudy:
    """The study with all its results; each new one is saved when it is there.

    Args:
        study: as far as it is.
        key: of the study.
        measure: makes the result of a variant for a random seed.

    Raises:
        StorageError: the folder cannot be written.
    """
    save_results(study, key)
    for seed in study.seeds:
        for variant in study.variants:
            if study.find(variant, seed) is None:
                result = measure(variant, seed)
                study = dataclasses.replace(study, results=(*study.results, result))
                save_results(study, key)
                logger.info("%s, seed %d: mIoU %s %%", variant, seed, percent(result.mean_iou))
    return study


def save_results(study: VariantStudy, key: ResultKey) -> None:
    """Write `study.json`.

    Raises:
        StorageError: the folder cannot be written.
    """
    value = {
        "key": key.record(),
        "tuning_set": {"split": study.split, "images": study.images},
        "variants": study.variants,
        "seeds": study.seeds,
        "results": [dataclasses.asdict(result) for result in study.results],
    }
    write_json(study.folder / RECORD, value)
