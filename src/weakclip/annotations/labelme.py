"""LabelMe's format (github.com/wkentaro/labelme): beside each image a JSON of the same name with its shapes.

A polygon has its corners in pixels; a hole is joined to the polygon round it, as polygons here have no holes. A mask
has the corner pixels of its box, both inside it, and the box's pixels as a PNG in base64.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

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
from weakclip.annotations.forms import (
    Format,
    KnownImages,
    annotations_below,
    files_below,
    flat_name,
    place_photo,
    tell_unlabelled,
)
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask
from weakclip.datasets.regions import fill_polygon
from weakclip.errors import DataError
from weakclip.store.files import atomic_folder
from weakclip.store.untrusted_text import parse_json, short

_VERSION = "5.5.0"  # of LabelMe, whose fields these are
LABELS = "labels.txt"
"""Beside the annotations: the labels, for `labelme --labels`."""


def write_labelme(path: Path, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as a folder for LabelMe; arguments as `Format.write`."""
    labels, count = annotation_labels(class_set), 0
    with atomic_folder(path) as folder:
        (folder / LABELS).write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
        for entry in entries:
            name = PurePosixPath(flat_name(entry.file_name))
            content = {
                "version": _VERSION,
                "flags": {},
                "shapes": [
                    _shape(label, *form)
                    for label, pixels in labelled_regions(entry.mask, labels)
                    for form in _forms(pixels, shapes)
                ],
                "imagePath": str(name),
                "imageData": None,
                "imageHeight": entry.mask.shape[0],
                "imageWidth": entry.mask.shape[1],
            }
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (folder / f"{name.stem}.json").write_text(text, encoding="utf-8")
            place_photo(entry, folder / name)
            count += 1
    return count


def _forms(pixels: np.ndarray, shapes: Shapes) -> Iterator[tuple[str, list[list[float]], str | None]]:
    """Kind, points, and mask in base64, of one class."""
    if shapes.kind == "polygons":
        for polygon in shapes.polygons(pixels):
            yield "polygon", polygon.astype(float).tolist(), None
        return
    left, top, width, height = tight_box(pixels)
    box, file = pixels[top : top + height, left : left + width], io.BytesIO()
    Image.fromarray(box.astype(np.uint8)).save(file, format="PNG")
    corners = [[float(left), float(top)], [float(left + width - 1), float(top + height - 1)]]
    yield "mask", corners, base64.b64encode(file.getvalue()).decode()


def _shape(label: str, kind: str, points: list[list[float]], mask: str | None) -> dict[str, Any]:
    common = {"label": label, "points": points, "group_id": None, "description": ""}
    return {**common, "shape_type": kind, "flags": {}, "mask": mask}


def read_labelme(path: Path, known: KnownImages) -> Iterator[AnnotatedImage]:
    """The images of a folder of LabelMe; later shapes lie above earlier ones.

    Raises:
        DataError: a JSON that is none of LabelMe. Of a shape that is neither polygon, rectangle nor mask, as soon as
            its image is asked for.
    """
    files = annotations_below(path, ".json")
    stems = {name.removesuffix(".json") for name in files}
    images = [name for ending in (".jpg", ".jpeg", ".png") for name in files_below(path, ending)]
    tell_unlabelled(path, [name for name in images if str(PurePosixPath(name).with_suffix("")) not in stems])
    for name in files:
        file = path / name
        try:
            content = parse_json(file.read_bytes())
            shapes, image = content["shapes"], str(content.get("imagePath") or name)
            if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
                raise ValueError("its `shapes` are no list of objects")
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not LabelMe's JSON ({shown(error)}); remove it, or give another folder") from None
        places = (str(PurePosixPath(name).parent / image), name)
        image = next((place for place in places if known.size_of(place) is not None), name)
        size = _size(content) or known.size_of(image)
        yield AnnotatedImage(image, size, () if size is None else _regions(shapes, size, file, image))


def _size(content: Mapping[str, Any]) -> tuple[int, int] | None:
    size = content.get("imageHeight"), content.get("imageWidth")
    return (int(size[0]), int(size[1])) if isinstance(size[0], int) and isinstance(size[1], int) else None


def _regions(
    shapes: list[dict[str, Any]], size: tuple[int, int], file: Path, image: str
) -> Iterator[tuple[str, np.ndarray]]:
    for number, shape in enumerate(shapes, 1):
        with naming_region(file, image, f"shape {number} of {len(shapes)}"):
            label = shape["label"]
            if not isinstance(label, str):
                raise ValueError(f"its label is {short(label)}; expected text")
            pixels = _pixels(shape, size)
        yield label, pixels


def _pixels(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], dtype=np.float64).reshape(-1, 2)
    if kind == "mask":
        return _placed(_decoded(shape["mask"]), points, size)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind not in ("polygon", "rectangle"):
        raise ValueError(f"it is a {short(kind)}; expected a polygon, a rectangle or a mask")
    if len(points) < 3:
        raise ValueError(f"it has {len(points)} corners; expected three or more")
    return fill_polygon(points, size)


def _decoded(code: Any) -> np.ndarray:
    try:
        return read_mask(io.BytesIO(base64.b64decode(code, validate=True))) > 0
    except (binascii.Error, TypeError, DataError):
        raise ValueError("its mask is no PNG in base64") from None


def _placed(box: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("a mask has the corners of its box as points")
    left, top = (int(value) for value in points.min(axis=0))
    height, width = box.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"a mask of {width}x{height} pixels at {left}, {top} does not lie in {size[1]}x{size[0]}")
    pixels = np.zeros(size, dtype=bool)
    pixels[top : top + height, left : left + width] = box
    return pixels


LABELME = Format(
    name="labelme",
    ending="",
    write=write_labelme,
    is_at=lambda path: path.is_dir() and bool(files_below(path, ".json")),
    read=read_labelme,
)
