"""Image-level labels for images that are no data set: a `labels.csv` or `.jsonl` beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from weakclip.datasets.label_files import read_label_rows
from weakclip.errors import DataError
from weakclip.prediction.inputs import InputImage


def read_labels(path: Path | str, images: Sequence[InputImage]) -> dict[InputImage, tuple[str, ...]]:
    """Names of the classes of each image that a labels file names, by the longest end of its path that has a row.

    Args:
        path: as `read_label_rows` reads it; images by their paths below any folder, with or without the ending.
        images: the images.

    Raises:
        DataError: not such a file, or an image with two rows.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected labels with the columns image,labels")
    rows: dict[str, tuple[str, ...]] = {}
    for row in read_label_rows(path):
        key = row.image.replace("\\", "/")
        if key in rows:
            raise DataError(f"{row.where}: image {row.image!r} is labelled twice; join the two rows")
        rows[key] = row.labels
    found = ((image, _row(rows, image.path)) for image in images)
    return {image: labels for image, labels in found if labels is not None}


def _row(rows: dict[str, tuple[str, ...]], path: Path) -> tuple[str, ...] | None:
    whole = PurePosixPath(path.as_posix())
    for start in range(len(whole.parts)):
        end = PurePosixPath(*whole.parts[start:])
        for key in (end.as_posix(), end.with_suffix("").as_posix()):
            if key in rows:
                return rows[key]
    return None
