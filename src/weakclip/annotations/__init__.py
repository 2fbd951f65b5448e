"""Masks in the files of annotation tools, to be corrected there, and back: COCO, Label Studio, and CVAT for images."""

from weakclip.annotations.coco import read_coco, write_coco
from weakclip.annotations.cvat import read_cvat, write_cvat
from weakclip.annotations.entries import UNDECIDED, AnnotatedImage, MaskEntry, Shapes, annotation_labels, draw_image
from weakclip.annotations.label_studio import read_label_studio, write_label_studio

__all__ = [
    "UNDECIDED",
    "AnnotatedImage",
    "MaskEntry",
    "Shapes",
    "annotation_labels",
    "draw_image",
    "read_coco",
    "read_cvat",
    "read_label_studio",
    "write_coco",
    "write_cvat",
    "write_label_studio",
]
