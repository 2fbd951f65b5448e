"""Which images a run is about: one class of settings for each kind of data set, told apart by `dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weakclip.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of every kind of data set.

    Args:
        dataset: the kind.
        train_split: the split that masks are made for.
        val_split: the split that the networks are scored on; None where there is none.
        train_limit: the number of images of the training split, from the first on; None for all.
        val_limit: the same for the validation split.
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
    marks: str | None = None
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        for name in ("train_limit", "val_limit"):
            _check_count(name, getattr(self, name))


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


@dataclass(frozen=True, kw_only=True)
class StoredData(DataSettings):
    """Images in a folder.

    Args:
        root: the folder; relative to where the command is run.
    """

    root: str


@dataclass(frozen=True, kw_only=True)
class VOC12Data(StoredData):
    """PASCAL VOC 2012 in its own layout."""

    dataset: Literal["voc12"] = "voc12"


@dataclass(frozen=True, kw_only=True)
class COCO14Data(StoredData):
    """MS COCO 2014 in its own layout."""

    dataset: Literal["coco14"] = "coco14"


@dataclass(frozen=True, kw_only=True)
class FolderData(StoredData):
    """A folder of one's own images.

    Args:
        class_file: the classes, where they are not in the folder's own `classes.yaml`.
        label_file: the labels, where they are not in the folder's own `labels.csv`.
        longest_side: pixels of the longer side that larger images are read, and their masks made, with; None
            keeps every size.
    """

    dataset: Literal["folder"] = "folder"
    class_file: str | None = None
    label_file: str | None = None
    longest_side: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("longest_side", self.longest_side)


AnyData = ScenesData | VOC12Data | COCO14Data | FolderData


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"{name}: 1 or more, or null, expected; found {value}")
