"""MS COCO 2014 read from its instances files (Lin et al., ECCV 2014)."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path, PurePosixPath

import numpy as np

from weakclip.datasets.base import ImageFileDataset, check_mask
from weakclip.datasets.classes import COCO14
from weakclip.datasets.coco_instances import load_index, read_regions
from weakclip.datasets.coco_lists import Id
from weakclip.datasets.faults import Fault
from weakclip.datasets.file_cache import FileCache
from weakclip.datasets.images import read_mask, write_mask
from weakclip.datasets.regions import Region, draw_regions
from weakclip.errors import BrokenFileError, DataError

logger = logging.getLogger("weakclip")

OFFICIAL_SIZES = {"train": 82783 - 702, "val": 40504}
"""Images of the instances files; 702 of train have no annotation."""

_READING = threading.Lock()


class COCO14Dataset(ImageFileDataset):
    """MS COCO 2014: 80 things and background.

    Expects `annotations/instances_train2014.json` and `instances_val2014.json` below the root, and the photos in
    `train2014` and `val2014`, in the same folders below `images`, or all in `images`. An image's labels are the classes
    of its annotations, crowds included. Images without any annotation are left out of train and kept in val; `notes`
    says how many.

    Masks are drawn from the regions when first asked for: larger regions first, so that small objects stay visible, and
    a crowd is 255 wherever no single object lies on it. The instances file is large: what was read from it (a small
    index) and drawn (palette PNGs) is kept in a `FileCache`, for later runs and for other processes.

    Args:
        root: the folder with `annotations`.
        split: train or val.
        lenient: leave out photos that are missing, and list them in `faults`.

    Raises:
        DataError: another layout, a category table that is not COCO's, missing images, or an unreadable file.
    """

    has_masks = True

    def __init__(self, root: Path | str, split: str, *, lenient: bool = False) -> None:
        if split not in ("train", "val"):
            raise DataError(f"{root}: MS COCO 2014 has the splits train and val with annotations; found {split!r}")
        self.root = Path(root)
        self.annotation_file = self.root / "annotations" / f"instances_{split}2014.json"
        if not self.annotation_file.is_file():
            raise DataError(f"{self.annotation_file}: no such file; unpack annotations_trainval2014.zip into {root}")
        self._cache = FileCache(Path(root), self.annotation_file, version=2)
        images = load_index(self.annotation_file, self._cache)
        self._entries = [entry for entry in images if split != "train" or entry.labels]
        self._regions: dict[Id, list[Region]] | None = None
        if not self._entries:
            raise DataError(f"{self.annotation_file}: no image has an annotation; expected labelled images")
        left_out = len(images) - len(self._entries)
        note = f"{left_out:,} of {len(images):,} images of {split} have no annotation and are left out"
        files = [entry.file_name for entry in self._entries]
        self._folder, missing = _image_folder(self.root, split, files)
        if missing and not lenient:
            raise DataError(
                f"{self._folder}: {len(missing):,} of {len(files):,} images are missing, first {missing[0]}"
            )
        if missing:
            self.faults = tuple(
                Fault(f"{self._folder / file}: no such file", PurePosixPath(file).stem) for file in missing
            )
            gone = set(missing)
            self._entries = [entry for entry in self._entries if entry.file_name not in gone]
        names = [str(PurePosixPath(entry.file_name).with_suffix("")) for entry in self._entries]
        super().__init__(COCO14, split, names, notes=[note] if left_out else [])
        self.official_size = OFFICIAL_SIZES[split]
        self.labelled_list = f"{split} with labels" if split == "val" else ""
        self._of = len(images)

    @property
    def truth(self) -> str:
        """Which images count, and how masks are drawn: other code draws other ones, and scores differ by tenths."""
        empty, count = sum(not entry.labels for entry in self._entries), f"{len(self):,} images"
        if empty:
            count += (
                f", {empty:,} of them without annotation, which count as background; CLIP-ES scores the others, here "
            )
            count += f"{self.labelled_list!r}"
        elif self._of > len(self):
            count += f" of {self._of:,}, those with annotation"
        return f"{count}; masks are drawn from the instances, the smaller object on top, crowds unlabelled"

    def image_path(self, index: int) -> Path:
        """The photo, a JPEG."""
        return self._folder / self._entries[index].file_name

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where it has no annotation (val)."""
        return self._entries[index].labels

    def mask_path(self, index: int) -> Path:
        """The instances file: the pixel labels of all images are in it."""
        return self.annotation_file

    def mask(self, index: int) -> np.ndarray:
        """Pixel labels `(H, W)` uint8 drawn from the annotated regions, 255 on crowds. Read by evaluation only.

        Raises:
            DataError: a region that cannot be decoded, or a photo of another size than the annotations are made for.
        """
        name = f"masks/{self.names[index]}.png"
        stored = self._cache.find(name)
        mask = self._drawn(index) if stored is None else read_mask(stored)
        source = stored or f"{self.annotation_file}, image {self.names[index]}"
        check_mask(mask, self.size(index), self.class_set.num_classes, source)
        if stored is None:
            self._cache.keep(name, lambda path: write_mask(path, mask, self.class_set.palette))
        return mask

    def _drawn(self, index: int) -> np.ndarray:
        entry = self._entries[index]
        if entry.size != self.size(index):  # before a mask of the size that the file claims is made
            claimed, (height, width) = f"{entry.size[1]}x{entry.size[0]}", self.size(index)
            source = f"{self.annotation_file}, image {self.names[index]}"
            raise BrokenFileError(f"{source}: mask is {claimed} pixels, its image {width}x{height}; they must agree")
        try:
            return draw_regions(self._all_regions().get(entry.identity, []), entry.size)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            source = f"{self.annotation_file}, image {self.names[index]}"
            raise BrokenFileError(f"{source}: region cannot be drawn ({error})") from None

    def _all_regions(self) -> dict[Id, list[Region]]:
        with _READING:
            if self._regions is None:
                logger.info("%s: reading the regions; each mask is drawn once", self.annotation_file)
                self._regions = read_regions(self.annotation_file, {entry.identity for entry in self._entries})
            return self._regions


def _image_folder(root: Path, split: str, files: list[str]) -> tuple[Path, list[str]]:
    """The folder of the photos, and those that are not in it."""
    if not files:
        return root, []
    folders = [root / f"{split}2014", root / "images" / f"{split}2014", root / "images"]
    for folder in folders:
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing = [file for file in files if file not in present]
        if len(missing) < len(files):
            return folder, missing
    searched = ", ".join(str(folder.relative_to(root)) for folder in folders)
    raise DataError(f"{root}: the image {files[0]} is in none of {searched}; unpack {split}2014.zip there")
