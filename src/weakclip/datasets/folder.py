"""A folder of your own images with image-level labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weakclip.datasets.base import Fault, ImageFileDataset, missing_classes
from weakclip.datasets.class_files import CLASS_FILE, Vocabulary, class_set_of_names, read_class_file
from weakclip.datasets.classes import BACKGROUND
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.datasets.folder_splits import listed_twice, split_files, split_folders, split_names
from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.datasets.label_files import LabelError, LabelRow, joined_labels, noting, read_label_rows
from weakclip.errors import DataError
from weakclip.store.files import expand_home

logger = logging.getLogger("weakclip")

LABEL_FILES = ("labels.csv", "labels.jsonl")
ALL = "all"


class FolderDataset(ImageFileDataset):
    """Images in a folder, and who shows what in one of two forms.

    - `images/` (nested folders are fine) and `labels.csv` or `labels.jsonl`: see `read_label_rows`;
    - one sub-folder a class, in `images/` or directly in the root: each image shows the class of its folder. Where all
      first folders are called like splits, `train/CLASS`, `val/CLASS`, they are the splits, and the classes lie below.

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
        longest_side: pixels of the longer side that larger images are reduced to; None keeps every size.
        lenient: leave out what would be a `LabelError`, rows and images, and list it in `faults`.

    Raises:
        DataError: no such folder or file, no images, no labels, a class file or a table that cannot be read.
        LabelError: an unknown class or image, an image without labels, …: all of them, with file and line.
    """

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        *,
        class_file: Path | str | None = None,
        label_file: Path | str | None = None,
        longest_side: int | None = None,
        lenient: bool = False,
    ) -> None:
        self.root = Path(root)
        self.longest_side = longest_side
        self._told = False
        images = ImageFolder(self.root)
        self.image_folder = images.folder
        faults = [_twins(images.folder, files) for files in images.twins()]
        rows = label_rows(self.root, images, label_file, faults)
        vocabulary, joined = _vocabulary(self.root, class_file, rows, faults)
        labels = _read_labels(images, [row for row in rows if row not in joined], vocabulary, faults)
        labels |= {file: () for row in joined for file in images.known(row.image)}
        self._files = split_files(self.root, split, images, faults)
        if split in (None, "train"):
            faults += self._unlabelled(labels, each=lenient)
        if faults and not lenient:
            raise LabelError(faults, self.root)
        if faults:
            unusable = {file for files in images.twins() for file in files} | listed_twice(self.root, images)
            unusable |= {file for file in self._files if not labels.get(file)} if split in (None, "train") else set()
            self._files = [file for file in dict.fromkeys(self._files) if file not in unusable]
        self.faults = tuple(dict.fromkeys(faults))
        self._labels = [labels.get(file, ()) for file in self._files]
        names = [stem(file) for file in self._files]
        masks = MaskFolder(self.root / "masks", map(stem, images.files))
        self._masks = [masks.find(name) for name in names]
        self.has_masks = any(path is not None for path in self._masks)
        notes = [*images.notes(), *masks.notes()]
        super().__init__(vocabulary.class_set, split or ALL, names, notes=notes)

    def _unlabelled(self, labels: dict[str, tuple[int, ...]], *, each: bool) -> list[Fault]:
        """One for all images that no row names, or one for each."""
        files = [file for file in self._files if file not in labels]
        more = f" (and {len(files) - 1:,} more such)" if len(files) > 1 and not each else ""
        advice = "add a row to the labels file, list it in val.txt, or move it away"
        return [
            Fault(f"{self.image_folder / file}: image without labels{more}; {advice}", stem(file))
            for file in (files if each else files[:1])
        ]

    @staticmethod
    def splits(root: Path | str) -> tuple[str, ...]:
        """The splits that a folder offers: train always, val and test where their lists or folders exist."""
        return split_names(Path(root), ImageFolder(Path(root)))

    def image_path(self, index: int) -> Path:
        """The image file."""
        return self.image_folder / self._files[index]

    def mask_path(self, index: int) -> Path | None:
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


def label_rows(root: Path, images: ImageFolder, label_file: Path | str | None, faults: list[Fault]) -> list[LabelRow]:
    """Who shows what, as a folder says it.

    Args:
        root: the data set's folder.
        images: its images.
        label_file: see `FolderDataset`.
        faults: gets one for every row that is passed over.

    Raises:
        DataError: no labels, or a table that cannot be read.
    """
    table = label_table(root, label_file)
    if table is not None:
        return read_label_rows(table, faults)
    loose = [file for file in images.files if "/" not in file]
    if loose:
        raise DataError(
            f"{root}: no labels.csv or labels.jsonl, and {loose[0]} lies in no class folder; write labels.csv with the "
            f"columns image,labels, sort the images of {images.folder} into one folder a class, or let `weakclip tag` "
            "propose labels"
        )
    splits = split_folders(images.files)
    deep = 1 if splits else 0
    sorted_in = [file for file in images.files if file.count("/") > deep]
    if not sorted_in:
        raise DataError(
            f"{images.folder}: its folders are the splits {', '.join(splits)}, without class folders in them; write "
            "labels.csv with the columns image,labels, or sort the images of each into one folder a class"
        )
    return [LabelRow(file, (file.split("/")[deep],), f"{images.folder / file}") for file in sorted_in]


def label_table(root: Path, label_file: Path | str | None = None) -> Path | None:
    """The table of labels: the file that is named, the one in the folder, or None where a sub-folder is a class.

    Raises:
        DataError: two tables in the folder.
    """
    if label_file is not None:
        return expand_home(label_file)
    tables = [root / name for name in LABEL_FILES if (root / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{root}: labels.csv and labels.jsonl are both here; keep one")
    return tables[0] if tables else None


def _vocabulary(
    root: Path, class_file: Path | str | None, rows: Sequence[LabelRow], faults: list[Fault]
) -> tuple[Vocabulary, set[LabelRow]]:
    """The classes that a file names, or, without one, those in the labels; and the rows that are not used for that.

    `cat dog` and `cat/dog` beside `cat` and `dog` are two labels with the wrong separator, not a class of their own.
    """
    if class_file is not None:
        return read_class_file(expand_home(class_file)), set()
    if (root / CLASS_FILE).is_file():
        return read_class_file(root / CLASS_FILE), set()
    written = {label for row in rows for label in row.labels}
    odd = {label: parts for label in written if (parts := joined_labels(label, written))}
    joined = {row for row in rows if not odd.keys().isdisjoint(row.labels)}
    faults += [
        Fault(f"{row.where}: {label!r} looks like {len(odd[label])} classes; separate labels by ';'", row.image)
        for row in rows
        for label in row.labels
        if label in odd
    ]
    names = sorted(written - odd.keys() - {BACKGROUND})
    if not names:
        raise LabelError(faults or [Fault(f"{root}: its labels name no class; write a row for each image")], root)
    try:
        return Vocabulary(class_set_of_names(names)), joined
    except DataError as error:
        raise DataError(f"{root}: {error}; the classes are those in the labels") from None


def _twins(folder: Path, files: Sequence[str]) -> Fault:
    return Fault(f"{folder}: {files[0]} and {files[1]} differ only in their ending; rename one", stem(files[0]))


def _read_labels(
    images: ImageFolder, rows: Sequence[LabelRow], vocabulary: Vocabulary, faults: list[Fault]
) -> dict[str, tuple[int, ...]]:
    """Class indices of each file that a row names; none where its labels are wrong."""
    labels: dict[str, tuple[int, ...]] = {}
    for row in rows:
        with noting(faults, row.image):
            file = images.find(row.image, row.where)
            if file in labels:
                labels[file] = ()
                raise DataError(f"{row.where}: image {row.image!r} is labelled twice; join the two rows")
            labels[file] = ()
            labels[file] = _indices(row, vocabulary)
    return labels


def _indices(row: LabelRow, vocabulary: Vocabulary) -> tuple[int, ...]:
    try:
        return vocabulary.foreground_indices(row.labels)
    except DataError as error:
        names = vocabulary.class_set.names
        joined = any(" " in label or joined_labels(label, names) for label in row.labels)
        hint = "; labels are separated by ';'" if joined else ""
        raise DataError(f"{row.where}: {error}{hint}") from None
