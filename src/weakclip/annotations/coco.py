"""COCO's annotation format (cocodataset.org/#format-data, "object detection"): one annotation a class and image.

A region is a compressed run-length code, or polygons, one for each part; a hole is joined to the polygon round it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from weakclip.annotations.entries import (
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    labelled_regions,
    shown,
    tight_box,
)
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.json_stream import stream_lists
from weakclip.datasets.regions import encode_runs, pack_runs, region_pixels
from weakclip.errors import DataError
from weakclip.store.files import atomic_write, writing
from weakclip.store.untrusted_text import short


def write_coco(path: Path | str, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as one COCO file, one image at a time.

    Args:
        path: the JSON file; it appears whole or not at all.
        entries: the masks.
        class_set: the classes; a category has the id of its class. Pixels of 255, where there are any, make a category
            of their own.
        shapes: run lengths or polygons.

    Returns:
        How many images were written.
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
        DataError: not such a file.
        StorageError: no room for the temporary file.
    """
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    names: dict[Any, str] = {}
    try:
        for kind, element in _elements(path, ("images", "categories")):
            if kind == "images":
                images[element["id"]] = _text(element["file_name"]), (element["height"], element["width"])
            else:
                names[element["id"]] = element["name"]
        with tempfile.TemporaryFile() as store:
            places = _store_regions(path, images, names, store)
            for identity, (file_name, size) in images.items():
                areas = list(_stored(store, places.get(identity, ())))
                yield AnnotatedImage(file_name, size, _drawn(areas, size))
    except KeyError as error:
        raise DataError(f"{path}: not a COCO file; an entry of its lists lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO file; an entry of its lists cannot be read ({shown(error)})") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the file name {short(value)}; expected text")
    return value


def _store_regions(
    path: Path | str, images: Collection[int], names: Mapping[Any, str], store: IO[bytes]
) -> dict[int, list[int]]:
    """Write each region as a line of JSON; for every image where its lines begin."""
    places: dict[int, list[int]] = {}
    with writing(tempfile.gettempdir()):
        for _, element in _elements(path, ("annotations",)):
            if element["image_id"] in images and element.get("segmentation"):
                places.setdefault(element["image_id"], []).append(store.tell())
                store.write(json.dumps([names[element["category_id"]], element["segmentation"]]).encode() + b"\n")
        store.flush()
    return places


def _stored(store: IO[bytes], places: Iterable[int]) -> Iterator[tuple[str, Any]]:
    for place in places:
        store.seek(place)
        name, area = json.loads(store.readline())
        yield name, area


def _drawn(areas: Iterable[tuple[str, Any]], size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    regions = [(name, region_pixels(_arrays(area), size)) for name, area in areas]
    yield from sorted(regions, key=lambda region: -np.count_nonzero(region[1]))


def _arrays(area: Any) -> Any:
    return [np.asarray(polygon, dtype=np.float64) for polygon in area] if isinstance(area, list) else area


def _elements(path: Path | str, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for name, element in stream_lists(file, wanted):
                if name in seen:
                    yield name, element
                seen.add(name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file of the COCO format ({error})") from None
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise DataError(f"{path}: not a COCO file; it has no {' and no '.join(missing)}")
