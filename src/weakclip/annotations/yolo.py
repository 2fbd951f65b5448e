"""Ultralytics' format of segmentation (docs.ultralytics.com/datasets/segment): `labels/…/NAME.txt` and `data.yaml`.

A row is `class x1 y1 x2 y2 …`: the index of a class in `names` of `data.yaml`, counted from 0 without a background, and
the corners of one polygon as shares of the image's width and height. A row holds one polygon and no hole: each
connected region is a row, and a hole is joined to the polygon round it by a line that is walked there and back, which
the even-odd rule and the non-zero rule fill alike. Read back by the even-odd rule, the pixels are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from weakclip.annotations.entries import (
    UNDECIDED,
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    labelled_regions,
    naming_region,
)
from weakclip.annotations.forms import (
    Format,
    KnownImages,
    annotations_below,
    files_below,
    flat_name,
    place_photo,
    tell_strays,
    tell_unlabelled,
)
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.contours import mask_polygons
from weakclip.datasets.regions import fill_polygon
from weakclip.errors import DataError
from weakclip.store.files import atomic_folder
from weakclip.store.untrusted_text import parse_yaml, short

LIST = "data.yaml"
_IMAGES, _LABELS, _SPLIT = "images", "labels", "train"
_SLACK = 0.01
"""How far beyond the image a corner may lie, as a share of its side: tools round."""


def write_yolo(path: Path, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as a folder for Ultralytics; arguments as `Format.write`.

    Classes of the foreground have the indices from 0 on. Pixels of 255, where there are any, make a class after them.
    Outlines are exact where the shapes are masks.
    """
    labels, used, count = annotation_labels(class_set), False, 0
    index = {name: number for number, name in enumerate(labels)}
    tolerance = shapes.tolerance if shapes.kind == "polygons" else 0.0
    with atomic_folder(path) as folder:
        (folder / _LABELS / _SPLIT).mkdir(parents=True)
        for entry in entries:
            name, rows = PurePosixPath(flat_name(entry.file_name)), list[str]()
            for label, pixels in labelled_regions(entry.mask, labels):
                used |= label == UNDECIDED
                share = 1 / np.array(pixels.shape[::-1])
                for polygon in mask_polygons(pixels, tolerance=tolerance):
                    rows.append(" ".join([str(index[label]), *(f"{x:.8g}" for x in (polygon * share).ravel())]))
            (folder / _LABELS / _SPLIT / f"{name.stem}.txt").write_text("".join(f"{row}\n" for row in rows))
            place_photo(entry, folder / _IMAGES / _SPLIT / name)
            count += 1
        names = {number: name for name, number in index.items() if name != UNDECIDED or used}
        # without `path`, the images lie below the folder of this file; `val` is a key that must be there
        lists = dict.fromkeys(("train", "val"), f"{_IMAGES}/{_SPLIT}")
        text = yaml.safe_dump({**lists, "names": names}, sort_keys=False, allow_unicode=True)
        (folder / LIST).write_text(text, encoding="utf-8")
    return count


def read_yolo(path: Path, known: KnownImages) -> Iterator[AnnotatedImage]:
    """The images that have a `.txt` below a folder `labels`; of regions that overlap, the smaller one lies above.

    Args:
        path: the folder, or its `data.yaml`.
        known: gives the sizes, which the format does not have.

    Raises:
        DataError: no `data.yaml` with names, or no labels. Of a row that is no polygon, or whose class has no name, as
            soon as its image is asked for.
    """
    root = path if path.is_dir() else path.parent
    names = _names(root / LIST if path.is_dir() else path)
    files = [name for name in annotations_below(root, ".txt") if _LABELS in PurePosixPath(name).parts[:-1]]
    if not files:
        raise DataError(f"{root}: no labels/…/NAME.txt; expected a folder of Ultralytics' segmentation")
    _tell_unlabelled(root, files)
    for name in files:
        parts = PurePosixPath(name).parts
        last = len(parts) - 1 - parts[::-1].index(_LABELS)
        image = str(PurePosixPath(*parts[last + 1 :]))
        size = known.size_of(image)
        yield AnnotatedImage(image, size, () if size is None else _regions(root / name, names, size))


def _names(path: Path) -> dict[int, str]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
        found = content["names"]
        names = dict(found) if isinstance(found, dict) else dict(enumerate(found))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it names the classes") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no list of class names under `names` ({error})") from None
    wrong = [key for key, name in names.items() if not (isinstance(key, int) and isinstance(name, str))]
    if wrong or not names:
        raise DataError(
            f"{path}: `names` has {short(wrong[0] if wrong else names)}; expected index: name of each class"
        )
    return names


def _tell_unlabelled(root: Path, files: Sequence[str]) -> None:
    """Name what is there beside the labels: strange files in their folders, and images without a label file."""
    folders = {PurePosixPath(name).parts[0] for name in files}
    if folders == {_LABELS}:
        tell_strays(root / _LABELS, (name.removeprefix(f"{_LABELS}/") for name in files))
    labelled = {PurePosixPath(name).stem for name in files}
    images = [name for name in files_below(root, "") if _IMAGES in PurePosixPath(name).parts[:-1]]
    tell_unlabelled(root, [name for name in images if PurePosixPath(name).stem not in labelled])


def _regions(path: Path, names: dict[int, str], size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected rows of numbers") from None
    regions = []
    for number, row in enumerate(rows, 1):
        if row.strip():
            with naming_region(path, path.stem, f"row {number}"):
                regions.append(_region(row.split(), names, size))
    yield from sorted(regions, key=lambda region: -np.count_nonzero(region[1]))


def _region(words: Sequence[str], names: dict[int, str], size: tuple[int, int]) -> tuple[str, np.ndarray]:
    index, numbers = float(words[0]), np.array([float(word) for word in words[1:]])
    if index not in names:
        raise ValueError(f"class {words[0]}; {LIST} names {', '.join(map(str, sorted(names)[:3]))}, …, {max(names)}")
    if len(numbers) == 4:
        raise ValueError("it is a box; expected a polygon (x and y of three corners or more)")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers behind the class; expected x and y of three corners or more")
    if not ((numbers >= -_SLACK) & (numbers <= 1 + _SLACK)).all():
        raise ValueError("corners beyond 0…1; expected shares of the image's width and height, not pixels")
    return names[int(index)], fill_polygon(numbers.reshape(-1, 2) * size[::-1], size)


def _is_yolo(path: Path) -> bool:
    return (path / LIST).is_file() or (path.is_file() and path.suffix.lower() in (".yaml", ".yml"))


YOLO = Format(name="yolo", ending="", write=write_yolo, is_at=_is_yolo, read=read_yolo)
