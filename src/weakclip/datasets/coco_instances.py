"""The instances files of MS COCO: which image shows which classes, and the regions of its objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets.classes import COCO14, IGNORE_INDEX
from weakclip.datasets.coco_lists import (
    Id,
    add_once,
    check_listed,
    entry_name,
    identity,
    list_entries,
    naming_entry,
    whole_number,
)
from weakclip.datasets.file_cache import FileCache
from weakclip.datasets.regions import Region
from weakclip.errors import DataError
from weakclip.store.files import write_text
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

    identity: Id
    file_name: str
    size: tuple[int, int]
    labels: tuple[int, ...]


def load_index(path: Path, cache: FileCache) -> list[ImageEntry]:
    """The images of an instances file, from the index in the cache, or else from the file, which then gets its index.

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
    write_text(target, json.dumps(rows, ensure_ascii=False, separators=(",", ":")))


def read_index(path: Path) -> list[ImageEntry]:
    """The images of an instances file in the order of their file names.

    Raises:
        DataError: no such file, not JSON, parts that are missing, an id that two images share, an annotation of an
            image that is not listed, or categories that are not COCO's 80.
    """
    images: dict[Id, dict[str, Any]] = {}
    categories: dict[Id, Any] = {}
    classes: dict[Id, set[Id]] = {}
    first_of: dict[Id, str] = {}
    annotated: dict[Id, str] = {}
    for kind, entry in list_entries(path, LISTS):
        with naming_entry(path, kind, entry):
            if kind == "images":
                add_once(images, identity(entry["id"]), _image(entry), kind)
            elif kind == "categories":
                add_once(categories, identity(entry["id"]), entry["name"], kind)
            else:
                image, category = identity(entry["image_id"]), identity(entry["category_id"])
                classes.setdefault(image, set()).add(category)
                first_of.setdefault(category, entry_name(kind, entry))
                annotated.setdefault(image, entry_name(kind, entry))
    check_listed(path, annotated, images)
    _check_categories(path, categories)
    index_of: dict[Id, int] = {key: index for index, key in enumerate(COCO14.ids) if index}
    for category, annotation in first_of.items():
        if category not in index_of:
            raise DataError(f"{path}: {annotation} has category {short(category)}, which is not listed")
    entries = [
        ImageEntry(
            key,
            image["file_name"],
            (image["height"], image["width"]),
            tuple(sorted(index_of[category] for category in classes.get(key, ()))),
        )
        for key, image in images.items()
    ]
    for entry in entries:
        if not _is_sound(entry):
            raise DataError(f"{path}: {short(entry)}; expected an image with a number, a file name and two sides")
    return sorted(entries, key=lambda entry: entry.file_name)


def _image(entry: Mapping[str, Any]) -> dict[str, Any]:
    sides = {name: whole_number(entry[name], name) for name in ("height", "width")}
    return {"file_name": entry["file_name"], **sides}


def read_regions(path: Path, wanted: Collection[Id]) -> dict[Id, list[Region]]:
    """The annotated regions of some images, in the order of the file.

    Args:
        path: an instances file that `read_index` has read.
        wanted: numbers of the images.

    Raises:
        DataError: as `read_index`, or a polygon that is not made of numbers.
    """
    index_of: dict[Id, int] = {key: index for index, key in enumerate(COCO14.ids)}
    regions: dict[Id, list[Region]] = {}
    for kind, entry in list_entries(path, ("annotations",)):
        with naming_entry(path, kind, entry):
            image, area = identity(entry["image_id"]), entry.get("segmentation")
            if image not in wanted:
                continue
            if isinstance(area, list) and all(isinstance(polygon, list) for polygon in area):  # an eighth of the memory
                area = [np.asarray(polygon, dtype=np.float64) for polygon in area]
            index = IGNORE_INDEX if entry.get("iscrowd") else index_of[identity(entry["category_id"])]
            regions.setdefault(image, []).append((index, area))
    return regions


def _check_categories(path: Path, found: dict[Id, Any]) -> None:
    expected: dict[Id, str] = dict(zip(COCO14.ids[1:], COCO14.names[1:], strict=True))
    for key in sorted(expected.keys() | found.keys(), key=lambda key: (isinstance(key, str), key)):
        if expected.get(key) != found.get(key):
            raise DataError(
                f"{path}: category {short(key)} is {short(found.get(key))}; MS COCO has {expected.get(key)!r}. "
                "For classes of your own use the folder data set"
            )
