"""Label Studio's tasks (labelstud.io/guide/predictions): masks as predictions, to be accepted and corrected there.

Beside the tasks goes the labelling interface that fits them, an XML that is pasted into the project's settings. Corners
of polygons are per cent of the image's width and height, as Label Studio has them.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from weakclip.annotations.brush_code import decode_brush, encode_brush
from weakclip.annotations.entries import (
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    label_colors,
    labelled_regions,
    shown,
)
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.json_stream import stream_list
from weakclip.datasets.regions import fill_polygon
from weakclip.errors import DataError
from weakclip.store.files import atomic_write
from weakclip.store.untrusted_text import short

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of a local storage."""

IMAGE, TAG = "image", "label"
"""Names in the labelling interface: of the image and its column, and of the control with the labels."""

_KINDS = {"masks": "brushlabels", "polygons": "polygonlabels"}
_CONTROLS = {"masks": "BrushLabels", "polygons": "PolygonLabels"}


def write_label_studio(
    path: Path | str,
    entries: Iterable[MaskEntry],
    class_set: ClassSet,
    shapes: Shapes,
    *,
    image_prefix: str = LOCAL_FILES,
) -> int:
    """Write masks as tasks with predictions, one image at a time, and the labelling interface `STEM.labels.xml`.

    Args:
        path: the JSON file; it appears whole or not at all.
        entries: the masks.
        class_set: the classes.
        shapes: brush or polygons; polygons of one class are regions of their own.
        image_prefix: what is put before an image's file name to make its address.

    Returns:
        How many images were written.
    """
    labels = annotation_labels(class_set)
    path, count = Path(path), 0
    with atomic_write(path.with_suffix(".labels.xml"), "w") as file:
        file.write(_interface(class_set, shapes))
    with atomic_write(path, "w") as file:
        file.write("[")
        for entry in entries:
            task = _task(entry, labels, shapes, image_prefix)
            file.write(("," if count else "") + "\n" + json.dumps(task, ensure_ascii=False))
            count += 1
        file.write("\n]\n")
    return count


def _interface(class_set: ClassSet, shapes: Shapes) -> str:
    control = _CONTROLS[shapes.kind]
    rows = (
        f"    <Label value={quoteattr(name)} background={quoteattr(color)}/>\n"
        for name, color in label_colors(class_set).items()
    )
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n'
        f'  <{control} name="{TAG}" toName="{IMAGE}">\n{"".join(rows)}  </{control}>\n</View>\n'
    )


def _task(entry: MaskEntry, labels: Mapping[str, int], shapes: Shapes, prefix: str) -> dict[str, Any]:
    results = [
        _result(value, name, entry.mask.shape, shapes)
        for name, pixels in labelled_regions(entry.mask, labels)
        for value in _values(pixels, shapes)
    ]
    for number, result in enumerate(results, 1):
        result["id"] = f"region{number}"
    address = prefix + urllib.parse.quote(entry.file_name)
    return {
        "data": {IMAGE: address, "file_name": entry.file_name},
        "predictions": [{"model_version": "weakclip", "result": results}],
    }


def _values(pixels: np.ndarray, shapes: Shapes) -> Iterator[dict[str, Any]]:
    if shapes.kind == "masks":
        yield {"format": "rle", "rle": encode_brush(pixels)}
        return
    per_cent = 100 / np.array(pixels.shape[::-1])
    for polygon in shapes.polygons(pixels):
        yield {"points": (polygon * per_cent).tolist(), "closed": True}


def _result(value: dict[str, Any], name: str, size: tuple[int, ...], shapes: Shapes) -> dict[str, Any]:
    kind = _KINDS[shapes.kind]
    return {
        "type": kind,
        "from_name": TAG,
        "to_name": IMAGE,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {**value, kind: [name]},
    }


def read_label_studio(path: Path | str) -> Iterator[AnnotatedImage]:
    """The images of Label Studio's JSON export, one at a time; later regions lie above earlier ones.

    Of a task, the last annotation that was not cancelled counts; without one, the last prediction; a task with neither
    is passed over.

    Raises:
        DataError: not such a file.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for task in stream_list(file):
                found = _annotated(task, path)
                if found is not None:
                    yield found
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON list of Label Studio's tasks ({error})") from None


def _annotated(task: Any, path: Path | str) -> AnnotatedImage | None:
    try:
        file_name = task["data"].get("file_name") or urllib.parse.unquote(task["data"][IMAGE])
        kept = [entry for entry in task.get("annotations") or () if not entry.get("was_cancelled")]
        chosen = (kept or task.get("predictions") or [None])[-1]
        results = [] if chosen is None else [item for item in chosen["result"] if _is_region(item)]
        sizes = {(item["original_height"], item["original_width"]) for item in results}
    except KeyError as error:
        raise DataError(f"{path}: not Label Studio's JSON export; a task lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: not Label Studio's JSON export; a task cannot be read ({error})") from None
    if chosen is None:
        return None
    if not isinstance(file_name, str):
        raise DataError(f"{path}: a task has the file name {short(file_name)}; expected text")
    if len(sizes) > 1:
        raise DataError(f"{path}, {shown(file_name)}: its regions are drawn on images of different sizes")
    regions = (region for item in results for region in _region(item))
    return AnnotatedImage(file_name, sizes.pop() if sizes else None, regions)


def _is_region(item: Mapping[str, Any]) -> bool:
    return str(item.get("type", "")).endswith("labels")


def _region(item: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    kind, value = item["type"], item["value"]
    size = item["original_height"], item["original_width"]
    if kind == _KINDS["masks"]:
        pixels = decode_brush(value["rle"], size)
    elif kind == _KINDS["polygons"]:
        with np.errstate(over="ignore"):  # of a corner that is refused then
            corners = np.asarray(value["points"], dtype=np.float64) * np.array(size[::-1]) / 100
        pixels = fill_polygon(corners, size)
    else:
        raise ValueError(f"it is of type {short(kind)}; expected {' or '.join(_KINDS.values())}")
    return [(label, pixels) for label in value[kind]]
