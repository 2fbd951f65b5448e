"""The instances files of MS COCO: which image shows which classes, and the regions of its objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets.classes import COCO14, IGNORE_INDEX
from weakclip.datasets.file_cache import FileCache
from weakclip.datasets.json_stream import stream_lists
from weakclip.datasets.regions import Region
from weakclip.errors import DataError
from weakclip.store.files import atomic_write
from weakclip.store.untrusted_text import parse_json, short

LISTS = ("images", "annotations", "categories")
INDEX = "index.json"


@dataclass(frozen=True)
class ImageEntry:
    """One image of an instances file.

    Args:
        identity: the file's number of it.
        file_name: the photo.
        size: height and width that the annotations are made for, pixels.
        labels: ascending class indices of its annotations, crowds included.
    """

    identity: int
    file_name: str
    size: tuple[int, int]
    labels: tuple[int, ...]


def load_index(path: Path, cache: FileCache) -> list[ImageEntry]:
    """The images of an instances file, from the index in the cache, or else from the file, which then gets its index.

    Args:
        path: the instances file.
        cache: its cache.

    Raises:
        DataError: as `read_index`.
    """
    stored = cache.find(INDEX)
    if stored is not None:
        try:
            rows = parse_json(stored.read_text(encoding="utf-8"))
            entries = [ImageEntry(row[0], row[1], (row[2], row[3]), tuple(row[4])) for row in rows]
            if all(map(_is_sound, entries)):
                return entries
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            pass  # what another program left there; the file itself is read
    entries = read_index(path)
    cache.keep(INDEX, lambda target: _write_index(target, entries))
    return entries


def _is_sound(entry: ImageEntry) -> bool:
    """Values of the right kinds, and a file name that names a file in the image folder."""
    numbers = (entry.identity, *entry.size, *entry.labels)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or not isinstance(entry.file_name, str):
        return False
    plain = entry.file_name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(entry.file_name)
    return plain and all(0 < label < COCO14.num_classes for label in entry.labels)


def _write_index(target: Path, entries: list[ImageEntry]) -> None:
    rows = [[entry.identity, entry.file_name, *entry.size, entry.labels] for entry in entries]
    with atomic_write(target, "w") as file:
        file.write(json.dumps(rows, ensure_ascii=False, separators=(",", ":")))


def read_index(path: Path) -> list[ImageEntry]:
    """The images of an instances file in the order of their file names.

    Raises:
        DataError: no such file, not JSON, parts that are missing, or categories that are not COCO's 80.
    """
    images: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    classes: dict[int, set[int]] = {}
    first_of: dict[int, Any] = {}
    try:
        for kind, element in _elements(path, LISTS):
            if kind == "images":
                images.append({key: element[key] for key in ("id", "file_name", "height", "width")})
                hash(element["id"])
            elif kind == "categories":
                categories[element["id"]] = element["name"]
            else:
                category = element["category_id"]
                classes.setdefault(element["image_id"], set()).add(category)
                first_of.setdefault(category, element.get("id"))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not an instances file; an entry of its lists lacks {error}") from None
    _check_categories(path, categories)
    index_of = {identity: index for index, identity in enumerate(COCO14.ids) if index}
    for category, annotation in first_of.items():
        if category not in index_of:
            raise DataError(f"{path}: annotation {annotation} has category {short(category)}, which is not listed")
    entries = [
        ImageEntry(
            entry["id"],
            entry["file_name"],
            (entry["height"], entry["width"]),
            tuple(sorted(index_of[category] for category in classes.get(entry["id"], ()))),
        )
        for entry in images
    ]
    for entry in entries:
        if not _is_sound(entry):
            raise DataError(f"{path}: {short(entry)}; expected an image with a number, a file name and two sides")
    return sorted(entries, key=lambda entry: entry.file_name)


def read_regions(path: Path, wanted: Collection[int]) -> dict[int, list[Region]]:
    """The annotated regions of some images, in the order of the file.

    Args:
        path: an instances file that `read_index` has read.
        wanted: numbers of the images.

    Raises:
        DataError: as `read_index`, or a polygon that is not made of numbers.
    """
    index_of = {identity: index for index, identity in enumerate(COCO14.ids)}
    regions: dict[int, list[Region]] = {}
    for _, element in _elements(path, ("annotations",)):
        try:
            area = element.get("segmentation")
            if area is None or element["image_id"] not in wanted:
                continue
            if isinstance(area, list):
                area = [np.asarray(polygon, dtype=np.float64) for polygon in area]
            index = IGNORE_INDEX if element.get("iscrowd") else index_of[element["category_id"]]
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            named = short(element.get("id")) if isinstance(element, dict) else short(element)
            raise DataError(f"{path}: annotation {named}: polygon is no list of numbers ({error})") from None
        regions.setdefault(element["image_id"], []).append((index, area))
    return regions


def _elements(path: Path, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """`(name of the list, element)`; all of the lists must be there."""
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8") as file:
            for name, element in stream_lists(file, names):
                if name in seen:
                    yield name, element
                seen.add(name)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; unpack annotations_trainval2014.zip into {path.parent.parent}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a readable file") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file of the COCO format ({error})") from None
    missing = [name for name in names if name not in seen]
    if missing:
        raise DataError(f"{path}: not an instances file; it has no {' and no '.join(missing)}")


def _check_categories(path: Path, found: dict[int, str]) -> None:
    expected = dict(zip(COCO14.ids[1:], COCO14.names[1:], strict=True))
    for identity in sorted(expected.keys() | found.keys()):
        if expected.get(identity) != found.get(identity):
            raise DataError(
                f"{path}: category {identity} is {found.get(identity)!r}; MS COCO has {expected.get(identity)!r}. "
                "For classes of your own use the folder data set"
            )
