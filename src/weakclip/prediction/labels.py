"""Image-level labels for images that are no data set: a `labels.csv` or `.jsonl` beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from weakclip.datasets.image_names import alike, canonical
from weakclip.datasets.label_files import read_label_rows
from weakclip.errors import DataError
from weakclip.prediction.inputs import InputImage


def read_labels(path: Path | str, images: Sequence[InputImage]) -> dict[InputImage, tuple[str, ...]]:
    """Names of the classes of each image that a labels file names, by the longest end of its path that has a row.

    Spellings that look the same are the same, and so is any case, where only one row is meant by it. A row without
    labels says nothing.

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
            raise DataError(f"{row.where}: image {row.image.strip()!r} is labelled twice; join the two rows")
        rows[key] = row.labels
    rows = {key: labels for key, labels in rows.items() if labels}  # an empty cell says nothing of the image
    tables = [(key, _unique(rows, key)) for key in (str, canonical, alike, _any_case)]
    found = ((image, _row(tables, image.path)) for image in images)
    return {image: labels for image, labels in found if labels is not None}


_Key = Callable[[str], str]
_Rows = dict[str, tuple[str, ...]]


def _any_case(text: str) -> str:
    return alike(text).casefold()


def _unique(rows: _Rows, key: _Key) -> _Rows:
    """Rows by another spelling of their images, but for those that two rows share."""
    counts = Counter(map(key, rows))
    return {key(image): labels for image, labels in rows.items() if counts[key(image)] == 1}


def _row(tables: Sequence[tuple[_Key, _Rows]], path: Path) -> tuple[str, ...] | None:
    """The row of an image, in the strictest spelling that has one, by the longest end of its path."""
    whole = PurePosixPath(path.as_posix())
    ends = [PurePosixPath(*whole.parts[start:]) for start in range(len(whole.parts))]
    names = [name for end in ends for name in (end.as_posix(), end.with_suffix("").as_posix())]
    return next((rows[key(name)] for key, rows in tables for name in names if key(name) in rows), None)
