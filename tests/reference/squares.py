"""A data set of a few small pictures."""

from __future__ import annotations

import numpy as np

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import ClassSet


class Squares(ImageLabelDataset):
    """A red (class 1) or blue (class 2) square on grey; whoever asks for its pixel labels fails."""

    def __init__(self, count: int = 6, size: int = 48) -> None:
        names = [f"sub/{index}" if index % 2 else str(index) for index in range(count)]
        super().__init__(ClassSet.from_foreground(["red", "blue"]), "train", names)
        self.pixels = size

    def truth(self, index: int) -> np.ndarray:
        mask = np.zeros((self.pixels, self.pixels), dtype=np.uint8)
        start = 4 + 3 * index
        mask[start : start + 20, start : start + 20] = 1 + index % 2
        return mask

    def image(self, index: int) -> np.ndarray:
        noise = np.random.default_rng(index).integers(0, 40, (self.pixels, self.pixels, 3))
        colors = np.array([[110, 110, 110], [200, 20, 20], [20, 20, 200]])
        return (colors[self.truth(index)] + noise).astype(np.uint8)

    def labels(self, index: int) -> tuple[int, ...]:
        return (1 + index % 2,)

    def size(self, index: int) -> tuple[int, int]:
        return self.pixels, self.pixels

    def mask(self, index: int) -> np.ndarray | None:
        raise AssertionError("training asked for pixel labels")
