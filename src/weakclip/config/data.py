"""The data sets that a configuration can name, by the classes of their settings: one line a data set."""

from __future__ import annotations

from weakclip.datasets.kinds import (
    COCO14Data,
    DataSettings,
    FolderData,
    OwnData,
    ScenesData,
    ShardsData,
    StoredData,
    VOC12Data,
)

__all__ = [
    "AnyData",
    "COCO14Data",
    "DataSettings",
    "FolderData",
    "OwnData",
    "ScenesData",
    "ShardsData",
    "StoredData",
    "VOC12Data",
]

AnyData = (
    ScenesData
    | VOC12Data
    | COCO14Data
    | FolderData
    | ShardsData
    | OwnData
)  # fmt: skip
