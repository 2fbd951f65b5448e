"""Class activation maps on disk: one grey PNG an image, the maps one below the other, in steps of 1/255."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weakclip.datasets import Sample
from weakclip.datasets.images import read_mask, write_png
from weakclip.errors import DataError
from weakclip.seeds.base import CAM


def write_cam(path: Path | str, sample: Sample, cam: CAM) -> None:
    """Write the maps of all of a sample's labels, whole or not at all; smooth maps compress well.

    Args:
        path: target, `.png`.
        sample: has labels; without any there is nothing to write.
        cam: maps of exactly these labels.

    Raises:
        DataError: maps of other classes, or of another size than the image.
    """
    expected = (len(sample.labels), *sample.image.shape[:2])
    if cam.classes != tuple(sample.labels) or cam.maps.shape != expected:
        found = f"{cam.maps.shape} of classes {cam.classes}"
        raise DataError(f"{sample.name}: CAMs {found}; expected {expected} of classes {sample.labels}")
    levels = np.rint(cam.maps.clip(0, 1) * 255).astype(np.uint8)
    write_png(path, levels.reshape(-1, expected[-1]))


def read_cam(path: Path | str, sample: Sample) -> CAM:
    """Read what `write_cam` wrote for the sample; for one without labels no file is read.

    Raises:
        DataError: no such file, or one that does not fit the sample.
    """
    height, width = sample.image.shape[:2]
    if not sample.labels:
        return CAM(classes=(), maps=np.zeros((0, height, width), dtype=np.float32))
    levels = read_mask(path)
    if levels.shape != (len(sample.labels) * height, width):
        expected = (len(sample.labels) * height, width)
        raise DataError(f"{path}: CAMs of {levels.shape}; expected {expected}; remove the file to have it made again")
    maps = levels.reshape(-1, height, width).astype(np.float32) / 255
    return CAM(classes=tuple(sample.labels), maps=maps)
