"""Images with image-level labels: PASCAL VOC 2012, MS COCO 2014, a folder of your own, and the drawn Scenes."""

from weakclip.datasets.base import ImageFileDataset, ImageLabelDataset, Sample
from weakclip.datasets.transforms import AugmentSettings, augment

__all__ = ["AugmentSettings", "ImageFileDataset", "ImageLabelDataset", "Sample", "augment"]
