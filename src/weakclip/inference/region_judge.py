"""Settings of a region bank, and its judgement on the masks and tags of a data set's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from weakclip.datasets.base import Sample
from weakclip.errors import ConfigError
from weakclip.inference.mask_statistics import ByClass
from weakclip.inference.region_bank import RegionBank, corrected, pool_regions, votes
from weakclip.inference.region_search import Search


@dataclass(frozen=True, kw_only=True)
class RegionBankSettings:
    """How a bank of regions corrects masks.

    Args:
        encoder: whose patches describe a region: a vision transformer (DINOv2, DINOv3, RADIO) as a folder in
            transformers' format or a hub id; None for the run's frozen encoder.
        neighbours: how many regions vote on one, 1 or more.
        agreement: share of the votes, of those for the image's own classes, from which a region takes their class,
            0.5…1; above 1 nothing is corrected, and only the tags are judged.
    """

    encoder: str | None = None
    neighbours: int = 25
    agreement: float = 0.9

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"region_bank: 1 or more neighbours expected; found {self.neighbours}")
        if not self.agreement >= 0.5:
            raise ConfigError(f"region_bank: an agreement of 0.5 or more expected; found {self.agreement}")


@dataclass(frozen=True, kw_only=True)
class RegionJudge:
    """Corrects the masks of a data set's images by a bank of their regions, and notes what speaks against their tags.

    Args:
        settings: how many vote, and when a mask follows.
        bank: whose owners are positions of images.
        search: from vectors `(R, D)`, how many are wanted and the owner to places in the bank, as `nearest`.
        positions: image name → its position.
        classes: `K`.
        features: from an image to an encoder's patches, `(D, h, w)`; on a CPU several threads call it.
    """

    settings: RegionBankSettings
    bank: RegionBank
    search: Search
    positions: Mapping[str, int]
    classes: int
    features: Callable[[Sample], np.ndarray]

    def judge(
        self, sample: Sample, features: np.ndarray, mask: np.ndarray, possible: np.ndarray
    ) -> tuple[np.ndarray, ByClass]:
        """Correct one mask, and note the votes on its image's tags; any thread may call this.

        Args:
            sample: the image and its labels.
            features: of the image.
            mask: `(H, W)` uint8.
            possible: indices of the classes that the mask can show.

        Returns:
            The corrected mask; and foreground class → the largest share of the votes on any region, 0…1: of the classes
            of the labels, and of others that have votes. Nothing where the mask has no region.
        """
        regions = pool_regions(mask, features)
        owner, count = self.positions[sample.name], self.settings.neighbours
        places = self.search(regions.vectors, count, owner)
        shares = votes(self.bank, places, count, owner, self.classes)
        told: ByClass = {}
        if len(shares):
            most = enumerate(shares.max(axis=0).tolist())
            told = {index: round(share, 4) for index, share in most if index and (share or index in sample.labels)}
        known = np.bincount(self.bank.classes, minlength=self.classes) >= count  # of rarer ones too little is known
        return corrected(mask, regions, shares, possible[known[possible]], self.settings.agreement), told
