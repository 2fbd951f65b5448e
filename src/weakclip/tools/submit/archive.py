"""Predictions for the PASCAL VOC evaluation server: one palette PNG an image, in one archive, proven before it appears.

The development kit of VOC2012 (Everingham and Winn, section 5) has two segmentation competitions: comp5 for methods
trained only on VOC's own data, comp6 for methods trained on any data but the test images. A frozen CLIP has seen other
data, so that results here go to comp6.
"""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import IO

import numpy as np

from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.images import read_mask
from weakclip.errors import DataError
from weakclip.store.files import atomic_write
from weakclip.store.progress import track

ARCHIVE_FOLDER = "results/VOC2012/Segmentation/comp6_{split}_cls"
"""Where the server, and the development kit, look for the masks of competition 6 on a split."""


def write_archive(masks: Path | str, dataset: ImageLabelDataset, out: Path | str) -> None:
    """Pack `masks/NAME.png` of every image of a split into a `.tgz` for the evaluation server, and read it back.

    The same masks give the same bytes.

    Args:
        masks: the folder of palette PNGs.
        dataset: the split; its pixel labels are not read.
        out: the archive; it appears when `check_archive` has passed, or not at all.

    Raises:
        DataError: as `check_archive`, or a mask that is missing.
    """
    masks, folder = Path(masks), ARCHIVE_FOLDER.format(split=dataset.split)
    with atomic_write(out, "w+b") as file:
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name in sorted(dataset.names):
                path = masks / f"{name}.png"
                if not path.is_file():
                    raise DataError(f"{path}: no such mask; predict the whole split first")
                entry = tarfile.TarInfo(f"{folder}/{name}.png")
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)
        file.seek(0)
        check_archive(file, dataset, name=str(out))


def check_archive(file: IO[bytes], dataset: ImageLabelDataset, *, name: str) -> None:
    """Prove an archive: exactly the images of the split, each a PNG of class indices of the image's size.

    255 is no class: the server would count such a pixel as wrong.

    Raises:
        DataError: no `.tgz`, an image that is missing or too many, another size, or a value beyond the classes.
    """
    folder = ARCHIVE_FOLDER.format(split=dataset.split)
    expected = {f"{folder}/{image}.png": index for index, image in enumerate(dataset.names)}
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            for entry in track(archive, "checking the archive", total=len(expected)):
                if entry.name not in expected or entry.name in seen:
                    raise DataError(f"{name}: {entry.name} is not of split {dataset.split!r}, or is there twice")
                seen.add(entry.name)
                _check_mask(archive.extractfile(entry), dataset, expected[entry.name], f"{name}, {entry.name}")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: not a .tgz archive ({error})") from None
    missing = [entry for entry in expected if entry not in seen]
    if missing:
        raise DataError(f"{name}: {len(missing)} of {len(expected)} masks are missing, the first is {missing[0]}")


def _check_mask(content: IO[bytes] | None, dataset: ImageLabelDataset, index: int, source: str) -> None:
    try:
        mask = read_mask(content) if content else np.empty((0, 0), np.uint8)
    except DataError:
        raise DataError(f"{source}: is no palette or grey PNG of class indices") from None
    height, width = dataset.size(index)
    if mask.shape != (height, width):
        raise DataError(f"{source}: is {mask.shape[1]}x{mask.shape[0]} pixels; its image is {width}x{height}")
    top = int(mask.max())
    if top >= dataset.class_set.num_classes:
        raise DataError(f"{source}: holds {top}; expected classes 0 to {dataset.class_set.num_classes - 1}")
