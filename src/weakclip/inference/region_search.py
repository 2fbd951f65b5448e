"""The nearest regions of a bank: every one is compared up to a million, more by faiss where it is installed."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from weakclip.inference.region_bank import RegionBank, nearest

logger = logging.getLogger("weakclip")

EXACT = 1_000_000
"""Regions up to which every one is compared."""
PROBED = 32
"""Cells of faiss's index that a search looks into; it has four times the root of the number of regions."""

Search = Callable[[np.ndarray, int, int], np.ndarray]


def search_of(bank: RegionBank) -> Search:
    """The search that suits the size of a bank.

    Returns:
        From vectors `(R, D)` float32 of unit length, how many neighbours are wanted, and the image whose own regions
        are passed over, to `(R, n)` int64 places, the nearest first; -1 where faiss finds no more.
    """
    if len(bank.vectors) <= EXACT:
        return functools.partial(nearest, bank)
    try:
        import faiss
    except ImportError:
        logger.warning(
            "region bank: each of %s regions is compared with every region of a mask, which takes long; "
            "`pip install weakclip[faiss]` to look at the likely ones only",
            f"{len(bank.vectors):,}",
        )
        return functools.partial(nearest, bank)
    cells = round(4 * math.sqrt(len(bank.vectors)))
    index: Any = faiss.index_factory(bank.vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(bank.vectors[:: max(1, len(bank.vectors) // (64 * cells))])
    index.add(bank.vectors)
    index.nprobe = PROBED

    def search(vectors: np.ndarray, count: int, owner: int) -> np.ndarray:
        first, last = np.searchsorted(bank.owners, [owner, owner + 1])
        found = index.search(vectors, count + int(last - first))[1]
        found[(found >= first) & (found < last)] = -1
        order = np.argsort(found < 0, axis=1, kind="stable")
        return np.take_along_axis(found, order, axis=1)[:, :count]

    return search
