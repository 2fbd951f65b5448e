"""A bank of regions: what the confident parts of all seeds look like, and what a region's nearest neighbours there say.

A region is a connected part of one class. It is eroded, so that no pixel of a neighbour counts, and its vector is the
mean of an encoder's patches in what is left, at unit length. The bank has the regions of the seeds, without the
farthest of each class from the class's mean. A region of a mask is judged by its nearest regions of other images: where
they agree on another class of the image, the mask follows; where they name a class that the image is not tagged with,
the tags look wrong.

References:
    Regions that are eroded, pooled, pruned by their distance to the class's mean, and found again by cosine are the
    memory of ModuSeg (arXiv 2604.07021, 2026) and CorrCLIP's second version, whose numbers (3 x 3, at most 20 times,
    25 %, 25 neighbours) are taken. There the bank labels proposed masks; here it corrects and questions masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX

EROSIONS = 20
"""The most that a region is eroded by, in pixels of its rim."""
CORE = 0.5
"""Share of a region that erosion leaves."""
PRUNED = 0.25
"""Share of each class's regions that are left out of a bank: the farthest from the class's mean."""
BLOCK = 65_536
"""Regions of a bank that are compared at once: what a search takes in memory beside the bank follows from it."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions of one image.

    Args:
        numbers: `(H, W)` int64, the region of each pixel, -1 where there is none.
        classes: `(R,)` uint8, the class of each region.
        vectors: `(R, D)` float32 of unit length.
    """

    numbers: np.ndarray
    classes: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RegionBank:
    """Regions of many images.

    Args:
        vectors: `(N, D)` float32 of unit length.
        classes: `(N,)` uint8.
        owners: `(N,)` int64, ascending: the image of each.
    """

    vectors: np.ndarray
    classes: np.ndarray
    owners: np.ndarray


def components(mask: np.ndarray) -> np.ndarray:
    """Numbers of the connected parts of a mask: pixels of one value that meet at their sides.

    Args:
        mask: `(H, W)` integers.

    Returns:
        `(H, W)` int64, from 0 on, in the order of their first pixels.

    >>> components(np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]])).tolist()
    [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    """
    starts = np.ones(mask.shape, dtype=bool)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    runs = starts.cumsum().reshape(mask.shape) - 1
    meeting = (mask[1:] == mask[:-1]) & (starts[1:] | starts[:-1])  # once for each two runs, where the later one starts
    pairs = np.stack([runs[:-1][meeting], runs[1:][meeting]])
    root = np.arange(runs.max(initial=-1) + 1)
    while (root[pairs[0]] != root[pairs[1]]).any():
        lower = np.minimum(*root[pairs])
        for end in pairs:
            np.minimum.at(root, root[end], lower)
        while (root != root[root]).any():
            root = root[root]
    return np.unique(root, return_inverse=True)[1][runs]


def depths(numbers: np.ndarray, most: int = EROSIONS) -> np.ndarray:
    """The number of erosions by 3 x 3 pixels that each pixel survives in its region; the image's rim is no edge.

    Args:
        numbers: `(H, W)` integers, the regions.
        most: erosions that are counted.

    Returns:
        `(H, W)` int64, 0…most.
    """
    wide = np.pad(numbers, 1, mode="edge")
    rows = np.s_[:-2], np.s_[1:-1], np.s_[2:]
    inside = np.ones(numbers.shape, dtype=bool)
    for row in rows:
        for column in rows:
            inside &= wide[row, column] == numbers
    depth = np.zeros(numbers.shape, dtype=np.int64)
    for _ in range(most):
        depth += inside
        tall = np.pad(inside, 1, mode="edge")
        across = tall[:, :-2] & tall[:, 1:-1] & tall[:, 2:]
        inside = across[:-2] & across[1:-1] & across[2:]
    return depth


def pool_regions(mask: np.ndarray, features: np.ndarray, *, erosions: int = EROSIONS) -> Regions:
    """The regions of a mask and their vectors.

    A region is eroded while a share of it (`CORE`) is left, and as much as a patch. One that is smaller than a patch is
    none.

    Args:
        mask: `(H, W)` uint8, 255 where no class is given.
        features: `(D, h, w)` float, patches of the image.
        erosions: the most.
    """
    (height, width), (channels, *grid) = mask.shape, features.shape
    parts, patch = components(mask), max(1, mask.size // (grid[0] * grid[1]))
    depth, count = depths(parts, erosions), parts.max(initial=-1) + 1
    area = np.zeros((count, erosions + 1), dtype=np.int64)
    np.add.at(area, (parts.ravel(), depth.ravel()), 1)
    left = area[:, ::-1].cumsum(axis=1)[:, ::-1]  # pixels of each region after 0, 1, … erosions
    first = np.zeros(count, dtype=np.int64)
    first[parts.ravel()[::-1]] = np.arange(mask.size)[::-1]
    classes = mask.ravel()[first]
    kept = np.flatnonzero((left[:, 0] >= patch) & (classes != IGNORE_INDEX))
    steps = (left >= np.maximum(patch, CORE * left[:, :1])).sum(axis=1) - 1
    order = np.full(count, -1)
    order[kept] = np.arange(len(kept))
    numbers = order[parts]
    cells = (np.arange(height) * grid[0] // height)[:, None] * grid[1] + np.arange(width) * grid[1] // width
    core = (numbers >= 0) & (depth >= steps[parts])
    places = np.bincount(numbers[core] * (grid[0] * grid[1]) + cells[core], minlength=len(kept) * grid[0] * grid[1])
    vectors = places.reshape(len(kept), grid[0] * grid[1]) @ features.reshape(channels, -1).T.astype(np.float32)
    return Regions(numbers=numbers, classes=classes[kept], vectors=unit(vectors))


def unit(vectors: np.ndarray) -> np.ndarray:
    """`(R, D)` float32 of unit length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def pruned(bank: RegionBank) -> RegionBank:
    """A bank without the share `PRUNED` of each class's regions that are farthest from the class's mean, by cosine."""
    kept = np.ones(len(bank.classes), dtype=bool)
    for index in np.unique(bank.classes):
        places = np.flatnonzero(bank.classes == index)
        near = bank.vectors[places] @ unit(bank.vectors[places].mean(axis=0, keepdims=True))[0]
        kept[places[np.argsort(near, kind="stable")[: int(PRUNED * len(places))]]] = False
    return RegionBank(vectors=bank.vectors[kept], classes=bank.classes[kept], owners=bank.owners[kept])


def nearest(bank: RegionBank, vectors: np.ndarray, count: int, owner: int) -> np.ndarray:
    """The regions of other images that are nearest to some, by cosine; the first of equals.

    Every region is compared, `BLOCK` at a time.

    Args:
        bank: where to look.
        vectors: `(R, D)` float32 of unit length.
        count: how many are wanted of each.
        owner: the image whose own regions are passed over.

    Returns:
        `(R, n)` int64 places in the bank, the nearest first; `n` is less than `count` where there are no more.
    """
    first, last = np.searchsorted(bank.owners, [owner, owner + 1])
    places, found = np.zeros((len(vectors), 0), dtype=np.int64), np.zeros((len(vectors), 0), dtype=np.float32)
    for start in range(0, len(bank.vectors), BLOCK):
        near = vectors @ bank.vectors[start : start + BLOCK].T
        near[:, max(0, first - start) : max(0, last - start)] = -np.inf
        wanted = min(count, near.shape[1])
        own = np.sort(np.argpartition(-near, wanted - 1, axis=1)[:, :wanted], axis=1)
        places = np.concatenate([places, own + start], axis=1)
        found = np.concatenate([found, np.take_along_axis(near, own, axis=1)], axis=1)
        best = np.argsort(-found, axis=1, kind="stable")[:, :count]
        places, found = np.take_along_axis(places, best, axis=1), np.take_along_axis(found, best, axis=1)
    return places[:, : min(count, len(bank.vectors) - int(last - first))]


def votes(bank: RegionBank, places: np.ndarray, count: int, owner: int, classes: int) -> np.ndarray:
    """Shares of the classes among the nearest regions of other images.

    A class with fewer regions than `count` could not win a majority, so that each of them counts the more, five times
    at most.

    Args:
        bank: all regions.
        places: `(R, n)` int64, the nearest of each region, -1 for none.
        count: how many were wanted.
        owner: the image of the regions that are voted on.
        classes: `K`.

    Returns:
        `(R, K)` float64, shares of the votes; rows sum to 1, or to 0 where nobody votes.
    """
    found = np.where(places >= 0, bank.classes[places], classes)
    others = np.bincount(bank.classes[bank.owners != owner], minlength=classes)
    weight = count / np.clip(others, max(1, count // 5), count)
    shares = np.stack([(found == index).sum(axis=1) * weight[index] for index in range(classes)], axis=1)
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)


def corrected(
    mask: np.ndarray, regions: Regions, shares: np.ndarray, possible: np.ndarray, agreement: float
) -> np.ndarray:
    """A mask whose regions take the class on which their neighbours agree, among those that the image can show.

    Args:
        mask: `(H, W)` uint8.
        regions: of the mask.
        shares: `(R, K)`, as `votes` gives them.
        possible: indices of the classes that a region can have or take; one of another class stays.
        agreement: share of the votes for these classes that a class needs.
    """
    result, own = mask.copy(), shares[:, possible]
    for number, row in enumerate(own):
        if regions.classes[number] in possible and row.max() > 0 and row.max() >= agreement * row.sum():
            result[regions.numbers == number] = possible[row.argmax()]
    return result
