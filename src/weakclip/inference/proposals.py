"""Proposals: masks of regions that another program drew, without classes, draw the edges of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from weakclip.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """Where proposals come from, and when a mask follows one. Either `folder` or `segmenter` is given.

    Args:
        folder: the files, or one file for all images; see `weakclip.inference.proposal_files.ProposalFiles`.
        segmenter: a network that draws them, once, into the run folder: a folder in transformers' format or a hub id;
            see `weakclip.inference.proposal_networks`.
        agreement: mean probability inside a region that a class needs, 0.5…1; with less the region changes nothing.
    """

    folder: str | None = None
    segmenter: str | None = None
    agreement: float = 0.95

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.segmenter is None):
            found = f"folder {self.folder}, segmenter {self.segmenter}"
            raise ConfigError(f"proposals: either a folder or a segmenter expected; found {found}")
        if not 0.5 <= self.agreement <= 1:
            raise ConfigError(f"proposals: an agreement of 0.5 to 1 expected; found {self.agreement}")


def snap(rows: np.ndarray, regions: Iterable[np.ndarray], agreement: float) -> np.ndarray:
    """The most probable class of each pixel, corrected by regions that agree on one class.

    A region whose mean probability of one class reaches `agreement` takes that class as a whole. The smallest regions
    come first, and keep what they have taken. Where no region decides, the most probable class stays. The majority
    inside a proposed mask is the correction of CorrCLIP (Zhang et al., ICCV 2025).

    Args:
        rows: `(n, H, W)` float, probabilities of the classes.
        regions: `(H, W)` bool each; they may overlap.
        agreement: 0.5…1.

    Returns:
        `(H, W)` int64, 0…n - 1.

    >>> rows = np.array([[[0.9, 0.2, 0.6, 0.9]], [[0.1, 0.8, 0.4, 0.1]]])
    >>> snap(rows, [np.array([[False, True, True, False]])], 0.6).tolist()
    [[0, 1, 1, 0]]
    """
    chosen = rows.argmax(axis=0)
    free = np.ones(chosen.shape, dtype=bool)
    for region in sorted(regions, key=np.count_nonzero):
        if not region.any():
            continue
        means = rows[:, region].mean(axis=1)
        winner = int(means.argmax())
        if means[winner] >= agreement:
            chosen[region & free] = winner
            free &= ~region
    return chosen
