"""Repeat-factor sampling: images of rare classes, and those with a verified mask, come more than once an epoch.

    f_c = share of the images whose labels name class c        t = threshold · mean of f_c over the classes that occur
    r_c = min(10, max(1, sqrt(t / f_c)))                        r_i = max over the classes c of image i of r_c

Image i comes `r_i` times an epoch in the mean: `floor(r_i)` times, and once more with probability `r_i - floor(r_i)`.
Where no class is rare, every `r_i` is 1 and the order is the plain permutation. Only image-level labels are read.

An image with a verified mask comes at least `min(m, unverified images / verified images)` times, so that verified
images are no more than half of an epoch for their own sake. This is no part of the publication.

Two things differ from the publication. Its t is a share of the images (0.001, for 1,203 classes); a share of the mean
frequency suits 2 classes as well as 80. And r_c has a bound, so that no image is learned by heart: a class that one of
10,000 images shows would otherwise come up to 100 times an epoch.

References:
    Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019 (repeat factors).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from weakclip.datasets.base import ImageLabelDataset
from weakclip.errors import ConfigError

logger = logging.getLogger("weakclip")

MOST_REPEATS = 10.0
"""Upper bound of every repeat factor."""
_NAMED = 5
_OFFSETS = 2**20


@runtime_checkable
class LabelledData(Protocol):
    """Training data, item `i` of which is made of image `i` of `dataset`."""

    @property
    def dataset(self) -> ImageLabelDataset: ...


@runtime_checkable
class VerifiedData(LabelledData, Protocol):
    """Training data that knows the names of the images whose masks a person verified."""

    @property
    def verified(self) -> Collection[str]: ...


class Repeats:
    """How often every image comes in an epoch.

    Args:
        factors: `(N,)` float64, 1 or more: times an epoch, in the mean.

    Attributes:
        items: length of every epoch, the sum of the factors rounded.
    """

    def __init__(self, factors: np.ndarray) -> None:
        self.factors = factors
        self._whole = np.floor(factors).astype(np.int64)
        once_more = _summing_to_whole(factors - self._whole)
        self._extra = np.cumsum(once_more)
        extras = round(float(self._extra[-1]))
        self._extra[-1] = extras  # without what rounding has left
        self.items = int(self._whole.sum()) + extras

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The images of one epoch in the order in which they come.

        Systematic sampling with a random offset says who comes once more; all are permuted then.

        Returns:
            `(items,)` int64; image i is there `floor(r_i)` or `ceil(r_i)` times.
        """
        offset = (int(rng.integers(_OFFSETS)) + 0.5) / _OFFSETS  # never so near to 0 or 1 that rounding would count
        counts = self._whole + np.diff(np.floor(self._extra + offset), prepend=0.0).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(counts)), counts))

    def describe(self) -> str:
        """Length of an epoch and a digest of the factors: equal where the orders are."""
        return f"{self.items} items an epoch ({hashlib.sha256(self.factors.tobytes()).hexdigest()[:8]})"


def _summing_to_whole(shares: np.ndarray) -> np.ndarray:
    """`(N,)` shares, 0 ≤ p < 1, changed so that their sum is the nearest whole number; all stay in 0…1, zeros 0."""
    total = float(shares.sum())
    goal, fractional = round(total), shares > 0
    if goal <= total:
        return shares * (goal / total) if total else shares
    room = np.where(fractional, 1 - shares, 0.0)
    return np.minimum(shares + room * ((goal - total) / float(room.sum())), 1.0)


def class_repeats(labels: Iterable[Sequence[int]], num_classes: int, threshold: float) -> np.ndarray:
    """The repeat factor of every class.

    Args:
        labels: foreground indices of every image; those without any count as images.
        num_classes: `K`, with the background.
        threshold: times the mean frequency of the classes that occur; rarer ones are repeated. Above 0.

    Returns:
        `(K,)` float64, 1…10; 1 for the background and for a class that does not occur.

    >>> labels = [(1,)] * 8 + [(1, 2)]                          # the mean frequency is 5 of 9
    >>> class_repeats(labels, 3, threshold=0.75).round(3).tolist()   # sqrt(0.75 * 5)
    [1.0, 1.0, 1.936]
    """
    counts, images = np.zeros(num_classes, dtype=np.int64), 0
    for image in labels:
        counts[list(image)] += 1
        images += 1
    counts[0] = 0
    occurring = counts > 0
    factors = np.ones(num_classes)
    if occurring.any():
        frequency = counts[occurring] / images
        factors[occurring] = np.sqrt(threshold * frequency.mean() / frequency).clip(1.0, MOST_REPEATS)
    return factors


def class_factors(dataset: ImageLabelDataset, threshold: float, *, log: bool = True) -> np.ndarray:
    """How often every image comes for its rarest class.

    Args:
        dataset: images and labels; no image and no mask is read.
        threshold: see `class_repeats`.
        log: whether to say in one line of log which classes are repeated.

    Returns:
        `(N,)` float64, 1 or more.
    """
    labels = [dataset.labels(index) for index in range(len(dataset))]
    of_class = class_repeats(labels, dataset.class_set.num_classes, threshold)
    factors = np.array([max((of_class[label] for label in image), default=1.0) for image in labels])
    if log and (factors > 1).any():
        rare = sorted(np.flatnonzero(of_class > 1), key=lambda label: -of_class[label])
        named = ", ".join(f"{dataset.class_set.names[label]} {of_class[label]:.1f}" for label in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more classes" if len(rare) > _NAMED else ""
        logger.info("images of rare classes come up to %.1f times an epoch: %s%s", factors.max(), named, more)
    return factors


def verified_factors(names: Sequence[str], verified: Collection[str], most: float, *, log: bool = True) -> np.ndarray:
    """How often every image comes for its verified mask.

    Args:
        names: of all images.
        verified: those of the images with a verified mask.
        most: times an epoch, 1 or more; fewer where verified images would be more than half of it.
        log: whether to say it in one line of log.

    Returns:
        `(N,)` float64, 1 or more.

    >>> verified_factors(["a", "b", "c", "d"], {"b"}, 4.0, log=False).tolist()
    [1.0, 3.0, 1.0, 1.0]
    """
    chosen = np.array([name in verified for name in names])
    count = int(chosen.sum())
    factor = max(1.0, min(most, (len(names) - count) / max(count, 1)))
    if log and count and factor > 1:
        logger.info("images with a verified mask (%d) come %.1f times an epoch", count, factor)
    return np.where(chosen, factor, 1.0)


def repeats_of(
    data: object, threshold: float | None, verified_repeats: float = 1.0, *, log: bool = True
) -> Repeats | None:
    """The repeats of training data; None where every item comes once. An image comes as often as its larger factor.

    Args:
        data: `LabelledData` where there is a threshold; its verified images are repeated where it is `VerifiedData`.
        threshold: see `class_repeats`; None repeats no class.
        verified_repeats: see `verified_factors`.
        log: whether to say in a line of log what is repeated.

    Raises:
        ConfigError: a threshold, and items without image-level labels.
    """
    wanted = []
    if threshold is not None:
        if not isinstance(data, LabelledData):
            raise ConfigError(f"repeat_threshold: null expected for data without image-level labels; found {threshold}")
        wanted.append(class_factors(data.dataset, threshold, log=log))
    if isinstance(data, VerifiedData):
        wanted.append(verified_factors(data.dataset.names, data.verified, verified_repeats, log=log))
    factors = np.max(wanted, axis=0) if wanted else np.ones(1)
    return Repeats(factors) if (factors > 1).any() else None
