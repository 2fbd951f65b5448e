"""A data set class of one's own, its seeds, and a batch of them: what to write where the images lie in no known layout.

    python examples/own_dataset.py

Any subclass of `ImageLabelDataset` goes through the whole package: seeds, training, pseudo masks, scores. This one
draws coloured discs; in yours, `image` would read a file, and `labels` a table.
"""

from __future__ import annotations

import functools

import numpy as np
from torch.utils.data import DataLoader

import weakclip
from weakclip.datasets import ImageLabelDataset, collate_samples
from weakclip.seeds import PatchText, SeedSettings, seed_masks

CLASSES = weakclip.ClassSet.from_foreground(["red disc", "blue disc"], background_prompts=["grey wall"])
COLORS = {1: (200, 30, 30), 2: (30, 30, 200)}


class DiscDataset(ImageLabelDataset):
    """Grey pictures with one disc each."""

    def __init__(self, count: int, size: int = 64) -> None:
        self.pixels = size
        super().__init__(CLASSES, "train", [f"disc_{index:03d}" for index in range(count)])

    def image(self, index: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB. Called when the image is needed, not before."""
        image = np.full((self.pixels, self.pixels, 3), 128, dtype=np.uint8)
        image[self._disc(index)] = COLORS[self.labels(index)[0]]
        return image

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending class indices. Never opens the image."""
        return (1 + index % 2,)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, without decoding the image."""
        return self.pixels, self.pixels

    def _disc(self, index: int) -> np.ndarray:
        rows, columns = np.mgrid[: self.pixels, : self.pixels]
        x, y = np.random.default_rng(index).uniform(0.3, 0.7, 2) * self.pixels
        return (rows - y) ** 2 + (columns - x) ** 2 < (self.pixels / 5) ** 2


def main() -> None:
    """Seeds of the first image, and a batch from a `DataLoader`."""
    dataset = DiscDataset(count=6)
    method = PatchText(weakclip.load_clip("demo"), dataset.class_set)
    sample = dataset[0]
    masks = seed_masks(sample, method.cam(sample), SeedSettings())
    print(
        "seed of", sample.name, masks.seed.shape, "undecided pixels:", int((masks.seed == weakclip.IGNORE_INDEX).sum())
    )
    collate = functools.partial(collate_samples, num_classes=dataset.class_set.num_classes)
    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=collate)))
    print("batch", tuple(batch["image"].shape), batch["labels"].tolist())


if __name__ == "__main__":
    main()
