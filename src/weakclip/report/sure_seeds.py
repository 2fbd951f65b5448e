"""How sure the seeds are, and how far that can be believed. No pixel label is read.

A dense CRF makes class activation maps nearly certain everywhere: its probability of 0.95 is not the share that is
right. The trained WeakCLIP is a second view of the same images. It is learned from all seeds at once, and so follows
what they have in common more than the mistakes of one image: where its mask contradicts a sure seed, the seed is often
wrong. docs/report.md says how often, on the runs where that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakclip.report.folder import read_json
from weakclip.report.worse_masks import LIMITS, Change, ClassChange, mean_if_any
from weakclip.store.layout import STAGE_FOLDERS

FEW_UNDECIDED = 0.1
"""Seeds that leave less than this share of the pixels undecided are called over-sure."""

GONE_TOO_OFTEN = 1 / 3
"""A class that is gone from more than this share of its images says nothing of its seeds: training failed on it."""

SHARES = ("foreground", "background", "undecided")


@dataclass(frozen=True, kw_only=True)
class SureSeeds:
    """Figures of the seeds of a run; shares are 0…1.

    Args:
        foreground: share of the pixels that are sure seeds of a foreground class, mean over the images.
        background: the same of the background.
        undecided: share of the pixels that have no seed; the three sum to 1.
        contradicted: share of the sure foreground seeds to which the masks give another class: mean over the images
            that still have the class, then over the classes; None before there are masks.
        classes: what became of the seeds of each class; empty before there are masks.
    """

    foreground: float
    background: float
    undecided: float
    contradicted: float | None
    classes: tuple[ClassChange, ...]

    @property
    def over_sure(self) -> bool:
        """Whether hardly a pixel is left undecided."""
        return self.undecided < FEW_UNDECIDED


def sure_seeds(folder: Path, change: Change) -> SureSeeds | None:
    """The seeds of a run; None where its first stage has not told what they are made of.

    Args:
        folder: the run folder.
        change: what training made of the seeds; without classes before there are masks.

    Raises:
        RunError: metrics of the stage that cannot be read.
    """
    shares = _shares(read_json(folder / STAGE_FOLDERS["seeds"] / "metrics.json").get("mean_shares"))
    if shares is None:
        return None
    foreground = [each for each in change.classes if each.index and each.images >= LIMITS.least_images]
    values = [value for value in map(contradicted, foreground) if value is not None]
    return SureSeeds(**shares, contradicted=mean_if_any(values), classes=change.classes)


def contradicted(of: ClassChange) -> float | None:
    """An estimate of the share of a class's sure seeds that is wrong, 0…1.

    It is the share of them to which the masks give another class, mean over the images that still have the class; None
    where training has lost the class in more than `GONE_TOO_OFTEN` of the images.
    """
    if of.kept_where_left is None or of.gone > GONE_TOO_OFTEN * of.images:
        return None
    return 1 - of.kept_where_left


def _shares(value: Any) -> dict[str, float] | None:
    if not isinstance(value, Mapping):
        return None
    shares = {name: value.get(name) for name in SHARES}
    known = {name: float(share) for name, share in shares.items() if isinstance(share, int | float) and 0 <= share <= 1}
    return known if len(known) == len(SHARES) else None
