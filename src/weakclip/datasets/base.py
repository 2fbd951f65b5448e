"""The protocol of a data set: images, the classes of each one, and, for scoring only, pixel masks."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from torch.utils.data import Dataset

from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.faults import Fault
from weakclip.datasets.images import image_size, read_mask, read_rgb, reduced_size, resize_mask, used_values
from weakclip.errors import BrokenFileError, DataError
from weakclip.store.files import check_inside
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import is_plain, short


@dataclass(frozen=True)
class Sample:
    """One image with its image-level labels: all that training sees.

    Args:
        name: unique, file-safe name within the data set, without an extension.
        image: `(H, W, 3)` uint8 RGB.
        labels: ascending indices of the foreground classes that the image shows.
    """

    name: str
    image: np.ndarray
    labels: tuple[int, ...]


class ImageLabelDataset(ABC, Dataset[Sample]):
    """Images with image-level labels, as an ordinary map-style torch data set of `Sample`.

    Nothing is decoded before it is asked for: the constructor holds only lists of names and labels.

    Args:
        class_set: the classes, background first.
        split: the name of the split, as it is printed beside every number.
        names: one unique name an image.
        notes: sentences about what was read and what was left out, for the user to see.

    Attributes:
        official_size: how many images a published split has; None where there is no such number.
        faults: what was left out, where the data set was asked to leave out what it cannot use.
        untagged: the names of images of a training split that nobody has tagged.
        has_masks: whether `mask` gives pixel labels. They are read by evaluation and never by training.
        longest_side: pixels of the longer side that larger images, and their masks, are reduced to;
            None keeps every size.
        labelled_list: the name of the list without images that show no class, where publications score on that list,
            too; empty where they do not.

    Raises:
        DataError: no images, a repeated name, or a name that would leave its folder when used as a file name.
    """

    official_size: int | None = None
    has_masks: bool = False
    longest_side: int | None = None
    labelled_list: str = ""
    faults: tuple[Fault, ...] = ()
    untagged: tuple[str, ...] = ()

    def __init__(self, class_set: ClassSet, split: str, names: Sequence[str], *, notes: Sequence[str] = ()) -> None:
        self.class_set = class_set
        self.split = split
        self.names = tuple(names)
        self.notes = tuple(notes)
        if not self.names:
            raise DataError(f"split {split!r} has no images; a data set needs at least one")
        self._positions = {name: position for position, name in enumerate(self.names)}
        if len(self._positions) != len(self.names):
            repeated = next(name for position, name in enumerate(self.names) if self._positions[name] != position)
            raise DataError(f"split {split!r} names {repeated!r} more than once; image names must differ")
        for name in self.names:
            check_name(name)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The sample at a position; -1 is the last one, as in a list.

        Raises:
            IndexError: beyond the end.
        """
        try:
            position = range(len(self))[operator.index(index)]
        except IndexError:
            raise IndexError(f"split {self.split!r} has {len(self)} images; there is none at {index}") from None
        return Sample(self.names[position], self.image(position), self.labels(position))

    def index_of(self, name: str) -> int:
        """The position of an image name.

        Raises:
            DataError: no image has that name.
        """
        if name not in self._positions:
            raise DataError(f"split {self.split!r} has no image {name!r}")
        return self._positions[name]

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB."""

    @abstractmethod
    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending foreground indices; empty where the split carries no labels. Never decodes the image."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, without decoding it."""

    def mask(self, index: int) -> np.ndarray | None:
        """Pixel labels `(H, W)` uint8 with 255 for unlabelled pixels, or None. Read by evaluation only."""
        return None

    def image_file(self, index: int) -> AnyPath | None:
        """The file that the image is read from; None where it is drawn, not stored."""
        return None

    @property
    def truth(self) -> str:
        """How its pixel labels came about, in words, for those who read a score; empty where nothing need be said."""
        return ""

    def stored_size(self, index: int) -> tuple[int, int]:
        """Height and width of the image file, upright, which `size` may be a reduction of."""
        path = self.image_file(index)
        return self.size(index) if path is None else image_size(path)


class ImageFileDataset(ImageLabelDataset):
    """A data set whose images, and masks where there are any, are files.

    A link to a single file may not lead out of its folder and of `root`; whole folders may be links.

    Attributes:
        root: the data set's folder.
    """

    root: AnyPath

    @abstractmethod
    def image_path(self, index: int) -> AnyPath:
        """The image file."""

    def mask_path(self, index: int) -> AnyPath | None:
        """The file with the pixel labels, or None."""
        return None

    def image_file(self, index: int) -> AnyPath:
        """`image_path`, to be opened.

        Raises:
            DataError: a link that leads out of the data set.
        """
        return self._inside(self.image_path(index))

    def _inside(self, path: AnyPath) -> AnyPath:
        if isinstance(path, Path) and isinstance(self.root, Path):
            check_inside(path, self.root)
        return path

    def image(self, index: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB, upright."""
        return read_rgb(self.image_file(index), longest_side=self.longest_side)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, from the file's header."""
        return reduced_size(image_size(self.image_file(index)), self.longest_side)

    def mask(self, index: int) -> np.ndarray | None:
        """Pixel labels `(H, W)` uint8 with 255 for unlabelled pixels, or None. Read by evaluation only.

        Raises:
            DataError: a mask of another size than its image, or with an index that is no class.
        """
        path = self.mask_path(index)
        if path is None:
            return None
        mask = read_mask(self._inside(path))
        check_mask(mask, image_size(self.image_file(index)), self.class_set.num_classes, path)
        size = self.size(index)
        return mask if mask.shape == size else resize_mask(mask, size)


def check_name(name: str) -> None:
    """Raise a `DataError` unless `name` is a relative path of ordinary parts: it becomes the name of result files."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and "/".join(parts) == name and not name.startswith("/")
    if not plain or ".." in parts or "\\" in name or not is_plain(name):
        raise DataError(f"image name {short(name)} cannot be used as a relative file name; rename the image")


def missing_classes(mask: np.ndarray, labels: Sequence[int], class_set: ClassSet) -> str:
    """The words for a mask with pixels of 255 or other classes, and none of its image's classes; empty for any other.

    Args:
        mask: `(H, W)` uint8.
        labels: classes of the image.
        class_set: their names.
    """
    used = used_values(mask)
    if not labels or set(labels) & set(used) or used == [0]:
        return ""
    expected = ", ".join(f"{class_set.names[label]} ({label})" for label in labels)
    if used == [0, IGNORE_INDEX]:
        found = f"it holds 0 and {IGNORE_INDEX} only, and {IGNORE_INDEX} is of no class"
        return f"{found}; where it means the object, write the index of the class: {expected}"
    return f"it holds {', '.join(map(str, used[:5]))} and no pixel of the image's classes: {expected}"


def check_mask(mask: np.ndarray, size: tuple[int, int], num_classes: int, source: AnyPath | str) -> None:
    """Raise a `DataError` unless `mask` has the image's `size` and holds only class indices and 255."""
    if mask.shape != size:
        height, width = mask.shape
        raise BrokenFileError(
            f"{source}: mask is {width}x{height} pixels, its image {size[1]}x{size[0]}; they must agree"
        )
    foreign = [value for value in used_values(mask) if num_classes <= value != IGNORE_INDEX]
    if foreign:
        raise BrokenFileError(
            f"{source}: mask holds {foreign[0]}; expected class indices 0 to {num_classes - 1}, or 255"
        )
