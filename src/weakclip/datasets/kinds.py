"""The settings of the data sets: one class for each kind, told apart by `dataset`, which opens its splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from weakclip.errors import ConfigError
from weakclip.store.files import expand_home
from weakclip.store.ranges import check_range
from weakclip.store.remote import check_url, is_url

if TYPE_CHECKING:  # the data sets are imported when one is opened: settings are read without torch
    from weakclip.datasets.base import ImageLabelDataset


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of every kind of data set.

    Args:
        dataset: the kind.
        train_split: the split that masks are made for.
        val_split: the split that the networks are scored on; None where there is none.
        train_limit: the number of images of the training split, from the first on; None for all.
        val_limit: the same for the validation split.
        verified: a folder of masks that a person has drawn or approved, `NAME.png`, for instance another run's
            `verified`; those in the run's own folder come on top of it. None for the run's own.
        marks: a `marks.jsonl` of `weakclip review`, for instance another run's; the marks in the run's own folder come
            on top of it. None for the run's own.
        on_error: "stop" ends the run at a file that cannot be used; "skip" leaves out images that cannot be read, or
            whose labels or imported seeds are broken, and lists them in `errors.jsonl`.
    """

    dataset: str
    train_split: str = "train"
    val_split: str | None = "val"
    train_limit: int | None = None
    val_limit: int | None = None
    verified: str | None = None
    marks: str | None = None
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        check_range(self, "train_limit", "val_limit", least=1)

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """A split of the data set.

        Args:
            split: name of the split.
            limit: the number of images that are wanted, from the first on; None for all. There may be more.

        Raises:
            DataError: no such folder or split, an empty split, or an unknown class.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ScenesData(DataSettings):
    """Images that the package draws.

    Args:
        scene_size: side of the images, pixels.
        scene_seed: another seed draws other images.
    """

    dataset: Literal["scenes"] = "scenes"
    scene_size: int = 128
    scene_seed: int = 0

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """As many drawn images as are wanted."""
        from weakclip.datasets.scenes import ScenesDataset

        return ScenesDataset(split, size=self.scene_size, count=limit, seed=self.scene_seed)


@dataclass(frozen=True, kw_only=True)
class StoredData(DataSettings):
    """Images in a folder.

    Args:
        root: the folder; relative to where the command is run.
    """

    root: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_url(self.root):
            raise ConfigError(f"root: a folder expected; found {self.root}; dataset: folder and shards read URLs")

    @property
    def folder(self) -> Path:
        """The folder, with the user's home in place of `~`."""
        return expand_home(self.root)

    @property
    def lenient(self) -> bool:
        """Whether images whose labels are broken are left out."""
        return self.on_error == "skip"


@dataclass(frozen=True, kw_only=True)
class VOC12Data(StoredData):
    """PASCAL VOC 2012 in its own layout."""

    dataset: Literal["voc12"] = "voc12"

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """The whole split."""
        from weakclip.datasets.voc import VOC12Dataset

        return VOC12Dataset(self.folder, split, lenient=self.lenient)


@dataclass(frozen=True, kw_only=True)
class COCO14Data(StoredData):
    """MS COCO 2014 in its own layout."""

    dataset: Literal["coco14"] = "coco14"

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """The whole split."""
        from weakclip.datasets.coco import COCO14Dataset

        return COCO14Dataset(self.folder, split, lenient=self.lenient)


@dataclass(frozen=True, kw_only=True)
class FolderData(StoredData):
    """A folder of one's own images, or a URL that fsspec reads, as `s3://bucket/photos`; so are the three files.

    Args:
        class_file: the classes, where they are not in the folder's own `classes.yaml`.
        label_file: the labels, where they are not in the folder's own `labels.csv`.
        val_file: the list of the images of val, where it is not the folder's own `val.txt`.
        untagged: "skip" leaves out training images without labels, unless they have a verified mask, and lists them in
            `untagged.txt`; "stop" takes them for a mistake.
        longest_side: pixels of the longer side that larger images are read, and their masks made, with; None
            keeps every size.
    """

    dataset: Literal["folder"] = "folder"
    class_file: str | None = None
    label_file: str | None = None
    val_file: str | None = None
    untagged: Literal["skip", "stop"] = "skip"
    longest_side: int | None = None

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        check_range(self, "longest_side", least=1)
        for name in ("root", "class_file", "label_file", "val_file"):
            check_url(getattr(self, name), name)

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """The whole split."""
        from weakclip.datasets.folder import FolderDataset

        return FolderDataset(
            self.root,
            split,
            class_file=self.class_file,
            label_file=self.label_file,
            val_file=self.val_file,
            longest_side=self.longest_side,
            untagged=self.untagged,
            lenient=self.lenient,
        )


@dataclass(frozen=True, kw_only=True)
class ShardsData(StoredData):
    """Images and labels in tars as WebDataset writes them, or in Parquet files, below a folder or a URL.

    Args:
        class_file: the classes, where they are not in `classes.yaml` of the root.
        longest_side: pixels of the longer side that larger images are read, and their masks made, with; None
            keeps every size.
    """

    dataset: Literal["shards"] = "shards"
    class_file: str | None = None
    longest_side: int | None = None

    def __post_init__(self) -> None:
        DataSettings.__post_init__(self)
        check_range(self, "longest_side", least=1)
        for name in ("root", "class_file"):
            check_url(getattr(self, name), name)

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """The whole split."""
        from weakclip.datasets.shards import ShardDataset

        return ShardDataset(
            self.root, split, class_file=self.class_file, longest_side=self.longest_side, lenient=self.lenient
        )


@dataclass(frozen=True, kw_only=True)
class OwnData(DataSettings):
    """Data sets that a Python program gives to `run_pipeline(dataset=…)`."""

    dataset: Literal["own"] = "own"

    def open(self, split: str, limit: int | None) -> ImageLabelDataset:
        """Nobody but the program can.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "data.dataset own: names a data set of a Python program; pass run_pipeline(dataset=…, val_dataset=…); "
            "commands that read the images cannot work on such a run"
        )
