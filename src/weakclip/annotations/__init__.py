"""Masks in the files of annotation tools, to be corrected there, and back: one file a format."""

from weakclip.annotations.coco import COCO, read_coco, write_coco
from weakclip.annotations.cvat import CVAT, read_cvat, write_cvat
from weakclip.annotations.entries import UNDECIDED, AnnotatedImage, MaskEntry, Shapes, annotation_labels, draw_image
from weakclip.annotations.fiftyone import FIFTYONE
from weakclip.annotations.forms import Format, KnownImages
from weakclip.annotations.label_studio import LABEL_STUDIO, read_label_studio, write_label_studio
from weakclip.annotations.labelme import LABELME
from weakclip.annotations.yolo import YOLO

FORMATS = {each.name: each for each in (COCO, LABEL_STUDIO, CVAT, YOLO, FIFTYONE, LABELME)}
"""All formats by their names, in the order in which a file or folder is asked whether it is one."""

__all__ = [
    "FORMATS",
    "UNDECIDED",
    "AnnotatedImage",
    "Format",
    "KnownImages",
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
