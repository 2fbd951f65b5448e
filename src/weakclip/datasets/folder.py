"""A folder of your own images with image-level labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from weakclip.datasets.base import ImageFileDataset, missing_classes
from weakclip.datasets.faults import Fault, LabelError
from weakclip.datasets.folder_labels import read_folder_labels
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.datasets.folder_splits import listed_twice, split_files, split_names
from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.store.remote import folder_at
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import some

logger = logging.getLogger("weakclip")

ALL = "all"

SHOWN = 3
"""Images without labels that a note names."""


class FolderDataset(ImageFileDataset):
    """Images in a folder, with their labels in one of two forms.

    - `images/` (nested folders are fine) and `labels.csv`, `.tsv`, `.xlsx` or `.jsonl`: see `read_label_file`;
    - one sub-folder a class, in `images/` or directly in the root: each image shows the class of its folder, and a
      photo that lies in several of them, byte for byte, is one image with several labels. Where all first folders are
      called like splits, `train/CLASS`, `val/CLASS`, they are the splits, and the classes lie below.

    Optional: `classes.yaml` (see `read_class_file`; without it the classes are those in the labels, sorted by name);
    `masks/NAME.png`, palette or grey PNGs of class indices for scoring (255: not scored); and `train.txt`, `val.txt`,
    `test.txt` with one image a line. Without `train.txt`, train is every image in no other list. Images of val and test
    need no labels. An image is named by its path below the image folder, with or without the extension.
    Nothing is ever written to the folder.

    Args:
        root: the folder.
        split: train, val or test; None takes every image.
        class_file: a file like `classes.yaml` elsewhere; None takes the one in the folder, if there is one.
        label_file: a file like `labels.csv` elsewhere, where the folder is not to be written to; None: as above.
        val_file: a list like `val.txt` elsewhere; its images are then in no other split.
        longest_side: pixels of the longer side that larger images are reduced to; None keeps every size.
        untagged: what images of the training without labels are: with "stop" mistakes; with "skip" they stay, and are
            named in `untagged`.
        lenient: leave out what would be a `LabelError`, rows and images, and list it in `faults`.

    Raises:
        DataError: no such folder or file, no images, no labels, a class file or a table that cannot be read.
        LabelError: an unknown class or image, an image without labels, …: all of them, with file and line.
    """

    def __init__(
        self,
        root: AnyPath | str,
        split: str | None = None,
        *,
        class_file: AnyPath | str | None = None,
        label_file: AnyPath | str | None = None,
        val_file: AnyPath | str | None = None,
        longest_side: int | None = None,
        untagged: Literal["skip", "stop"] = "stop",
        lenient: bool = False,
    ) -> None:
        self.root = folder_at(root)
        self.longest_side = longest_side
        self._told = False
        images = ImageFolder(self.root)
        self.image_folder = images.folder
        faults = [
            Fault(f"{images.folder}: {first} and {other} differ only in their ending; rename one", stem(first))
            for first, other, *_ in images.twins()
        ]
        told = read_folder_labels(self.root, images, class_file, label_file, faults)
        self._files = split_files(self.root, split, images, faults, val_file)
        if split in (None, "train"):
            untold = [file for file in self._files if file not in told.labels and file not in told.broken]
            if untagged == "skip":
                self.untagged = tuple(stem(file) for file in untold)
            else:
                faults += self._unlabelled(untold)
        if faults and not lenient:
            raise LabelError(faults, self.root)
        if faults:
            unusable = {file for files in images.twins() for file in files} | listed_twice(self.root, images)
            if split in (None, "train"):
                unusable |= {*told.broken, *(untold if untagged == "stop" else ())}
            self._files = [file for file in dict.fromkeys(self._files) if file not in unusable]
        self.faults = tuple(dict.fromkeys(faults))
        self._labels = [told.labels.get(file, ()) for file in self._files]
        names = [stem(file) for file in self._files]
        masks = MaskFolder(self.root / "masks", map(stem, (*images.files, *images.others_of_joined)))
        self._masks = [self._mask_of(file, images, masks) for file in self._files]
        self.has_masks = any(path is not None for path in self._masks)
        notes = [*told.notes, *images.notes(), *masks.notes()]
        super().__init__(told.vocabulary.class_set, split or ALL, names, notes=notes)

    def _unlabelled(self, files: Sequence[str]) -> list[Fault]:
        advice = "image without labels; add a row to the labels file, list it in val.txt, or move it away"
        paths = {file: str(self.image_folder / file) for file in files}
        return [Fault(f"{path}: {advice}", stem(file), advice, path) for file, path in paths.items()]

    @staticmethod
    def _mask_of(file: str, images: ImageFolder, masks: MaskFolder) -> AnyPath | None:
        """The mask of a photo, under any of its names."""
        found = (masks.find(stem(each)) for each in (file, *images.copies.get(file, ())))
        return next((path for path in found if path is not None), None)

    @staticmethod
    def splits(root: AnyPath | str) -> tuple[str, ...]:
        """The splits that a folder offers: train always, val and test where their lists or folders exist."""
        return split_names(folder_at(root), ImageFolder(folder_at(root)))

    def image_path(self, index: int) -> AnyPath:
        """The image file."""
        return self.image_folder / self._files[index]

    def mask_path(self, index: int) -> AnyPath | None:
        """`masks/NAME.png`, or None where there is none."""
        return self._masks[index]

    def mask(self, index: int) -> np.ndarray | None:
        """Pixel labels `(H, W)` uint8, or None; says so of the first mask that holds none of its image's classes."""
        mask = super().mask(index)
        missing = "" if mask is None or self._told else missing_classes(mask, self.labels(index), self.class_set)
        if missing:
            self._told = True
            logger.warning("%s: %s (said of the first such mask)", self.mask_path(index), missing)
        return mask

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where nothing is known (val, test)."""
        return self._labels[index]


def untagged_note(names: Sequence[str]) -> str:
    """A sentence on images without labels; empty where there are none."""
    if not names:
        return ""
    return f"{len(names):,} image{'s' if len(names) > 1 else ''} without labels left out: {some(names, SHOWN)}"
