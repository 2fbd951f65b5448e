"""Images with image-level labels: PASCAL VOC 2012, MS COCO 2014, a folder of your own, and the drawn Scenes."""

from weakclip.datasets.base import ImageFileDataset, ImageLabelDataset, Sample
from weakclip.datasets.batches import collate_samples
from weakclip.datasets.coco import COCO14Dataset
from weakclip.datasets.folder import FolderDataset
from weakclip.datasets.scenes import ScenesDataset
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
    "VOC12Dataset",
    "augment",
    "collate_samples",
]
