"""Training data of networks: the images of a data set, and a folder with one mask for each image."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import read_mask
from weakclip.datasets.transforms import AugmentSettings, augment
from weakclip.errors import DataError


class TrainingPairs:
    """Images and the masks `folder/NAME.png`, augmented; asked with `(index, rng_seed)`.

    Of the data set only images, names and labels are read: pixel labels reach training only where a user names their
    folder.

    Args:
        dataset: the images.
        mask_folder: palette or grey PNGs: class indices, 255 where a pixel is not trained on.
        settings: the augmentation.
        verified: names of images whose masks a person verified; they come more often (`training.sampling`).

    Raises:
        DataError: masks are missing.
    """

    def __init__(
        self,
        dataset: ImageLabelDataset,
        mask_folder: Path | str,
        settings: AugmentSettings,
        *,
        verified: Collection[str] = (),
    ) -> None:
        self.dataset = dataset
        self.mask_folder = Path(mask_folder)
        self.settings = settings
        self.verified = frozenset(verified)
        missing = [name for name in dataset.names if not self._mask_path(name).is_file()]
        if missing:
            raise DataError(
                f"{self._mask_path(missing[0])}: no such mask; {len(missing)} of {len(dataset)} images of the split "
                f"{dataset.split!r} have none in {self.mask_folder}; make the masks first"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """One augmented pair.

        Returns:
            `image` `(3, crop, crop)` uint8, `mask` `(crop, crop)` uint8, `shown` `(K,)` bool, true for the background
            and the classes among the image's labels, and `name`.

        Raises:
            DataError: a mask of another size than its image, or with an index that is no class.
        """
        index, rng_seed = key
        name, image = self.dataset.names[index], self.dataset.image(index)
        path = self._mask_path(name)
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            raise DataError(f"{path}: mask of {mask.shape}, but the image has {image.shape[:2]}; make the masks again")
        count = self.dataset.class_set.num_classes
        highest = int(np.where(mask == IGNORE_INDEX, 0, mask).max())
        if highest >= count:
            raise DataError(f"{path}: holds class {highest}; expected 0 to {count - 1}, or {IGNORE_INDEX}")
        image, mask = augment(image, mask, self.settings, np.random.default_rng(rng_seed))
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        shown = torch.zeros(count, dtype=torch.bool)
        shown[[0, *self.dataset.labels(index)]] = True
        return {"image": pixels, "mask": torch.from_numpy(np.ascontiguousarray(mask)), "shown": shown, "name": name}

    def _mask_path(self, name: str) -> Path:
        return self.mask_folder / f"{name}.png"
