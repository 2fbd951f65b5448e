"""Images with image-level labels: PASCAL VOC 2012, MS COCO 2014, a folder of your own, and the drawn Scenes.

The names in `__all__` are imported when first used (PEP 562): classes and image files are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weakclip.datasets.base import ImageFileDataset, ImageLabelDataset, Sample
    from weakclip.datasets.batches import collate_samples
    from weakclip.datasets.coco import COCO14Dataset
    from weakclip.datasets.folder import FolderDataset
    from weakclip.datasets.scenes import ScenesDataset
    from weakclip.datasets.shards import ShardDataset
    from weakclip.datasets.transforms import AugmentSettings, augment
    from weakclip.datasets.voc import VOC12Dataset

__all__ = [
    "AugmentSettings",
    "COCO14Dataset",
    "FolderDataset",
    "ImageFileDataset",
    "ImageLabelDataset",
    "Sample",
    "ScenesDataset",
    "ShardDataset",
    "VOC12Dataset",
    "augment",
    "collate_samples",
]

_HOMES = {
    "base": ("ImageFileDataset", "ImageLabelDataset", "Sample"),
    "batches": ("collate_samples",),
    "coco": ("COCO14Dataset",),
    "folder": ("FolderDataset",),
    "scenes": ("ScenesDataset",),
    "shards": ("ShardDataset",),
    "transforms": ("AugmentSettings", "augment"),
    "voc": ("VOC12Dataset",),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'weakclip.datasets' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"weakclip.datasets.{home}"), name)
    globals()[name] = value
    return value
