"""Images of one size that go through a network together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from weakclip.prediction.inputs import InputImage

WAITING = 4
"""Batches' worth of images that may wait for others of their size."""

TOGETHER = 2**22
"""Pixels of a batch, if it is of more than one image: the probabilities of 21 classes take 350 MB then."""


def equal_sizes(
    images: Iterable[tuple[InputImage, np.ndarray]], limit: int
) -> Iterator[list[tuple[InputImage, np.ndarray]]]:
    """Batches of up to `limit` images of one size and `TOGETHER` pixels, or of one image; never more than some batches'
    worth of images wait."""
    waiting: dict[tuple[int, ...], list[tuple[InputImage, np.ndarray]]] = {}
    count = 0
    for image, pixels in images:
        group = waiting.setdefault(pixels.shape, [])
        group.append((image, pixels))
        count += 1
        if len(group) == min(limit, max(1, TOGETHER // (pixels.shape[0] * pixels.shape[1]))):
            count -= len(group)
            yield waiting.pop(pixels.shape)
        elif count >= WAITING * limit:
            oldest = waiting.pop(next(iter(waiting)))
            count -= len(oldest)
            yield oldest
    yield from waiting.values()
