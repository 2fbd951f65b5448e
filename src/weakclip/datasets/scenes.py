"""Scenes: a data set drawn from a seed, with exact masks, for trying the whole method without a download.

It keeps the two difficulties of weakly-supervised segmentation: a small telling part on a large plain body, which draws
class activation maps to the part, and classes that keep company with a ground (boat and water).
"""

from __future__ import annotations

import functools

import numpy as np

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.scene_drawing import Scene, draw_scene
from weakclip.datasets.scene_shapes import BLUEPRINTS, GROUNDS
from weakclip.errors import DataError

SCENES = ClassSet.from_foreground(list(BLUEPRINTS), background_prompts=list(GROUNDS))
"""Twelve everyday classes and the background."""

SPLIT_SIZES = {"train": 500, "val": 200}
_STREAMS = {"train": 0, "val": 1, "captions": 2}


_remembered = functools.lru_cache(maxsize=1024)(draw_scene)


class ScenesDataset(ImageLabelDataset):
    """A split of Scenes, drawn as it is asked for; the last pictures are kept in memory.

    Args:
        split: "train", "val", or "captions" (the pictures that the demo CLIP was trained on).
        size: height and width in pixels, 64 or more.
        count: how many pictures; 500 for train and 200 for val where left out.
        seed: another seed gives other pictures.

    Raises:
        DataError: unknown split, or a size below 64.
    """

    has_masks = True

    def __init__(self, split: str, *, size: int = 128, count: int | None = None, seed: int = 0) -> None:
        if split not in _STREAMS:
            raise DataError(f"Scenes has the splits {', '.join(_STREAMS)}; found {split!r}")
        if size < 64:
            raise DataError(f"Scenes are 64 pixels and up; found size {size}")
        count = SPLIT_SIZES.get(split, 0) if count is None else count
        super().__init__(SCENES, split, [f"{split}_{index:06d}" for index in range(count)])
        self.pixels, self.seed = size, seed

    def scene(self, index: int) -> Scene:
        """The picture with all that is known of it."""
        return _remembered((self.seed, _STREAMS[self.split], index), size=self.pixels)

    def image(self, index: int) -> np.ndarray:
        return self.scene(index).image.copy()

    def labels(self, index: int) -> tuple[int, ...]:
        return self.class_set.foreground_indices(name for name, _ in self.scene(index).objects)

    def size(self, index: int) -> tuple[int, int]:
        return self.pixels, self.pixels

    def mask(self, index: int) -> np.ndarray:
        return self.scene(index).mask.copy()
