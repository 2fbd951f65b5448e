"""COCO's annotation format (cocodataset.org/#format-data, "object detection"): one annotation a class and image.

A region is a compressed run-length code, or polygons, one for each part; a hole is joined to the polygon round it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from weakclip.annotations.entries import (
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    labelled_regions,
    naming_region,
    shown,
    tight_box,
)
from weakclip.annotations.forms import Format, starts_with
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.coco_lists import (
    Id,
    add_once,
    categories_line,
    check_listed,
    entry_name,
    identity,
    list_entries,
    naming_entry,
    whole_number,
)
from weakclip.datasets.regions import encode_runs, pack_runs, region_pixels
from weakclip.store.files import atomic_write, writing
from weakclip.store.untrusted_text import short


def write_coco(path: Path | str, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as one COCO file; arguments as `Format.write`.

    A category has the id of its class. Pixels of 255, where there are any, make a category of their own.
    """
    labels = annotation_labels(class_set)
    ids = {name: class_set.ids[value] if value != IGNORE_INDEX else IGNORE_INDEX for name, value in labels.items()}
    used = set(class_set.names)
    images: list[dict[str, Any]] = []
    with atomic_write(path, "w") as file:
        info = {"description": "masks of weakclip", "version": "1.0"}
        file.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"annotations": [')
        count = 0
        for entry in entries:
            height, width = entry.mask.shape
            images.append({"id": len(images) + 1, "file_name": entry.file_name, "height": height, "width": width})
            for name, pixels in labelled_regions(entry.mask, labels):
                count += 1
                used.add(name)
                head = {"id": count, "image_id": len(images), "category_id": ids[name]}
                _write_item(file, {**head, **_region(pixels, shapes)}, first=count == 1)
        categories = [{"id": ids[name], "name": name, "supercategory": ""} for name in labels if name in used]
        file.write(f'],\n"categories": {json.dumps(categories, ensure_ascii=False)},\n"images": [')
        for index, image in enumerate(images):
            _write_item(file, image, first=index == 0)
        file.write("]}\n")
    return len(images)


def _write_item(file: IO[str], item: dict[str, Any], *, first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(item, ensure_ascii=False))


def _region(pixels: np.ndarray, shapes: Shapes) -> dict[str, Any]:
    segmentation: Any = {"size": list(pixels.shape), "counts": ""}
    if shapes.kind == "polygons":
        segmentation = [polygon.ravel().tolist() for polygon in shapes.polygons(pixels)]
    else:
        segmentation["counts"] = pack_runs(encode_runs(pixels))
    area = int(np.count_nonzero(pixels))
    return {"segmentation": segmentation, "area": area, "bbox": list(tight_box(pixels)), "iscrowd": 0}


def read_coco(path: Path | str) -> Iterator[AnnotatedImage]:
    """The images of a COCO file in its order; of regions that overlap, the smaller one lies above.

    The regions wait in a temporary file, of which only an index is in memory.

    Raises:
        DataError: not such a file, an id that two entries share, or an annotation of an image or a category that is not
            listed. Of a region that is a box or cannot be drawn, as soon as it is asked for.
        StorageError: no room for the temporary file.
    """
    images: dict[Id, tuple[str, tuple[int, int]]] = {}
    names: dict[Id, str] = {}
    for kind, entry in list_entries(path, ("images", "categories")):
        with naming_entry(path, kind, entry):
            if kind == "images":
                add_once(images, identity(entry["id"]), _image(entry), kind)
            else:
                add_once(names, identity(entry["id"]), _text(entry["name"], "name"), kind)
    with tempfile.TemporaryFile() as store:
        places, boxes = _store_regions(path, images, names, store)
        for key, (file_name, size) in images.items():
            areas = list(_stored(store, places.get(key, ())))
            yield AnnotatedImage(file_name, size, _drawn(areas, size, path, file_name, boxes))


def _image(entry: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    file_name = _text(entry["file_name"], "file name")
    return file_name, (whole_number(entry["height"], "height"), whole_number(entry["width"], "width"))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text as its {name}; found {short(value)}")
    return value


def _store_regions(
    path: Path | str, images: Mapping[Id, Any], names: Mapping[Id, str], store: IO[bytes]
) -> tuple[dict[Id, list[int]], int]:
    """Write each region as a line of JSON: for every image where its lines begin, and how many regions are boxes."""
    places: dict[Id, list[int]] = {}
    strays: dict[Id, str] = {}
    boxes = 0
    with writing(tempfile.gettempdir()):
        for kind, entry in list_entries(path, ("annotations",)):
            with naming_entry(path, kind, entry):
                if "segments_info" in entry:
                    raise ValueError("it is of COCO's panoptic format; expected a segmentation for each object")
                image, category = identity(entry["image_id"]), identity(entry["category_id"])
                if image not in images:
                    strays.setdefault(image, entry_name(kind, entry))
                elif category not in names:
                    raise ValueError(
                        f"it is of {shown(images[image][0])} and has the category_id {short(entry['category_id'])}, "
                        f"which is not listed; expected {categories_line(names)}"
                    )
                else:
                    places.setdefault(image, []).append(store.tell())
                    region = [names[category], entry_name(kind, entry), entry.get("segmentation")]
                    boxes += not region[-1]
                    store.write(json.dumps(region).encode() + b"\n")
        store.flush()
    check_listed(path, strays, images)
    return places, boxes


def _stored(store: IO[bytes], places: Iterable[int]) -> Iterator[tuple[str, str, Any]]:
    for place in places:
        store.seek(place)
        label, annotation, area = json.loads(store.readline())
        yield label, annotation, area


def _drawn(
    areas: Iterable[tuple[str, str, Any]], size: tuple[int, int], path: Path | str, file_name: str, boxes: int
) -> Iterator[tuple[str, np.ndarray]]:
    regions = []
    for label, annotation, area in areas:
        with naming_region(path, file_name, annotation):
            if not area:
                raise ValueError(f"it is a box, as are {boxes:,} annotations of the file; expected masks and polygons")
            regions.append((label, region_pixels(area, size)))
    yield from sorted(regions, key=lambda region: -np.count_nonzero(region[1]))


COCO = Format(
    name="coco",
    ending=".json",
    write=write_coco,
    is_at=lambda path: starts_with(path, "{"),
    read=lambda path, known: read_coco(path),
)
