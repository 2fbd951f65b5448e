"""Counts the images of a folder, their sizes and classes, for a first configuration; only headers are read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weakclip.datasets.class_files import CLASS_FILE
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.folder import FolderDataset, untagged_note
from weakclip.datasets.folder_labels import label_table
from weakclip.datasets.images import image_size
from weakclip.errors import DataError
from weakclip.tools.check.dataset import near_names
from weakclip.tools.check.doubts import odd_names

MOST_HEADERS = 2000
"""Number of images that are looked at where there are more, evenly spread."""


@dataclass(frozen=True, kw_only=True)
class FolderSurvey:
    """Numbers about a folder of images.

    Args:
        root: the folder.
        labels: where the labels come from, in words.
        class_file: the folder's own `classes.yaml`, or None.
        splits: how many images each split has, without untagged ones; train first.
        untagged: names of the training images without labels.
        masks: how many images have a mask, by split.
        classes: class name → how many training images show it, in the order of the classes.
        labelled: training image → the indices of its classes.
        background: words for what surrounds the objects.
        sizes: height and width of the images that were looked at, in pixels.
        notes: what was left out, and images whose header cannot be read.
    """

    root: Path
    labels: str
    class_file: Path | None
    splits: dict[str, int]
    untagged: tuple[str, ...] = ()
    masks: dict[str, int]
    classes: dict[str, int]
    labelled: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    background: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many training images there are."""
        return self.splits["train"]

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the image with the fewest pixels."""
        return min(self.sizes, key=math.prod)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the image with the most pixels."""
        return max(self.sizes, key=math.prod)


def survey_folder(
    root: Path | str, *, label_file: Path | str | None = None, val_file: Path | str | None = None
) -> FolderSurvey:
    """Look at a folder of images.

    Args:
        root: see `FolderDataset`, as are the others.
        label_file: the labels, where they are elsewhere.
        val_file: the validation images, where they are listed elsewhere.

    Raises:
        DataError: as `FolderDataset`; or no image whose header can be read.
    """
    root = Path(root)
    names = FolderDataset.splits(root)
    datasets = {
        split: FolderDataset(root, split, label_file=label_file, val_file=val_file, untagged="skip")
        for split in (*names, *(["val"] if val_file and "val" not in names else []))
    }
    train = datasets["train"]
    table = label_table(root, label_file)
    tagged = len(train) - len(train.untagged)
    if not tagged:
        raise DataError(f"{root}: none of its {len(train):,} images has labels; `weakclip tag` proposes some")
    counts = Counter(label for index in range(len(train)) for label in train.labels(index))
    sizes, unread = _sizes(train)
    return FolderSurvey(
        root=root,
        labels=f"one sub-folder of {train.image_folder} a class" if table is None else str(table),
        class_file=root / CLASS_FILE if (root / CLASS_FILE).is_file() else None,
        splits={split: len(each) - len(each.untagged) for split, each in datasets.items()},
        untagged=train.untagged,
        masks={
            split: sum(each.mask_path(index) is not None for index in range(len(each)))
            for split, each in datasets.items()
        },
        classes={name: counts[index] for index, name in enumerate(train.class_set.names) if index},
        background=train.class_set.background_prompts,
        labelled={name: train.labels(index) for index, name in enumerate(train.names) if train.labels(index)},
        sizes=tuple(sizes),
        notes=(*filter(None, [untagged_note(train.untagged)]), *train.notes, *unread, *_odd_classes(train.class_set)),
    )


def _odd_classes(class_set: ClassSet) -> list[str]:
    """Class names that are probably mistakes in the labels."""
    advice = "if they are one, write the other under `synonyms` in the class file"
    return [*(f"{names} are classes of their own; {advice}" for names in near_names(class_set)), *odd_names(class_set)]


def _sizes(dataset: FolderDataset) -> tuple[list[tuple[int, int]], list[str]]:
    """Sizes of the images, or of `MOST_HEADERS` of them, and a note on those that cannot be read."""
    indices = np.linspace(0, len(dataset) - 1, num=min(len(dataset), MOST_HEADERS), dtype=int)
    sizes, errors = [], []
    for index in indices.tolist():
        try:
            sizes.append(image_size(dataset.image_path(index)))
        except DataError as error:
            errors.append(str(error))
    if not sizes:
        raise DataError(errors[0])
    return sizes, [f"{len(errors):,} images cannot be read, the first: {errors[0]}"] if errors else []
