"""Label Studio's tasks (labelstud.io/guide/predictions): masks as predictions, to be accepted and corrected there.

Beside the tasks goes the labelling interface that fits them, an XML that is pasted into the project's settings. Corners
of polygons are per cent of the image's width and height, as Label Studio has them.
"""

from __future__ import annotations

import json
import logging
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    naming_region,
    shown,
)
from weakclip.annotations.forms import Format, starts_with
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.json_stream import stream_list
from weakclip.datasets.regions import fill_polygon
from weakclip.errors import DataError
from weakclip.store.files import atomic_write, write_text
from weakclip.store.untrusted_text import short, some

logger = logging.getLogger("weakclip")

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files of a local storage."""

IMAGE, TAG = "image", "label"
"""Names in the labelling interface: of the image and its column, and of the control with the labels."""

_LABELS = "labels"
"""End of the type of a result that has labels: brushlabels, polygonlabels, and labels, a control of its own."""

_SHAPES = frozenset({"rle", "points", "vertices", "x", "y", "width", "height", "radiusX", "radiusY"})
"""Keys of a result's value that say where it lies."""

_OPEN = ("vector", "keypoint")
"""Beginnings of types whose points enclose nothing."""

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
    """Write masks as tasks with predictions, and the labelling interface `STEM.labels.xml`.

    Args as `Format.write`; `image_prefix` is put before an image's file name to make its address.
    """
    labels = annotation_labels(class_set)
    path, count = Path(path), 0
    write_text(path.with_suffix(".labels.xml"), _interface(class_set, shapes))
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
    address = prefix + urllib.parse.quote(entry.file_name)
    data = {IMAGE: address, "file_name": entry.file_name}
    if entry.doubt is not None:
        data |= {"doubt": f"{100 * entry.doubt:.0f}", "reason": entry.reason}
    return {"data": data, "predictions": [{"model_version": "weakclip", **prediction_of(entry, labels, shapes)}]}


def prediction_of(entry: MaskEntry, labels: Mapping[str, int], shapes: Shapes) -> dict[str, Any]:
    """A mask as a prediction, `{"result": regions, "score": …}`; Label Studio sorts tasks by the score."""
    results = [
        _result(value, name, entry.mask.shape, shapes)
        for name, pixels in labelled_regions(entry.mask, labels)
        for value in _values(pixels, shapes)
    ]
    for number, result in enumerate(results, 1):
        result["id"] = f"region{number}"
    score = {} if entry.doubt is None else {"score": round(1 - entry.doubt, 4)}
    return {"result": results, **score}


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
        DataError: not such a file. Of a region without a label, or one that is neither brush nor polygon, as soon as it
            is asked for.
    """
    several = list[str]()
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for task in stream_list(file):
                found = _annotated(task, path)
                if found is not None:
                    several += [found.file_name] if len(_kept(task)) > 1 else []
                    yield found
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON list of Label Studio's tasks ({error})") from None
    if several:
        names = some([*map(shown, several)])
        logger.warning("%s: %d tasks have several annotations, of which the last counts: %s", path, len(several), names)


def _kept(task: Any) -> list[Any]:
    """The annotations of a task that were not cancelled."""
    return [entry for entry in task.get("annotations") or () if not entry.get("was_cancelled")]


def _annotated(task: Any, path: Path | str) -> AnnotatedImage | None:
    try:
        file_name = task_address(task)
        kept = _kept(task)
        chosen = (kept or task.get("predictions") or [None])[-1]
        results = [] if chosen is None else [item for item in chosen["result"] if _has_shape(item)]
        sizes = {(item["original_height"], item["original_width"]) for item in results}
    except KeyError as error:
        raise DataError(f"{path}: not Label Studio's JSON export; a task lacks {error}{_other_form(task)}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: not Label Studio's JSON export; a task cannot be read ({error})") from None
    if chosen is None:
        return None
    if not isinstance(file_name, str):
        raise DataError(f"{path}: a task has the file name {short(file_name)}; expected text")
    if len(sizes) > 1:
        raise DataError(f"{path}, {shown(file_name)}: its regions are drawn on images of different sizes")
    size = sizes.pop() if sizes else None
    return AnnotatedImage(file_name, size, _regions(results, path, file_name), by_person=bool(kept))


def task_address(task: Any) -> Any:
    """The name of a task's image: `file_name`, as tasks of this package have it, the address, or the upload."""
    data = task["data"]
    if data.get("file_name"):
        return data["file_name"]
    if IMAGE not in data and task.get("file_upload"):
        return task["file_upload"]
    return urllib.parse.unquote(data[IMAGE])


def _other_form(task: Any) -> str:
    """A hint where a list holds something else that is known."""
    if isinstance(task, dict) and {"image_id", "category_id"} <= task.keys():
        return "; it is a list of COCO results, which names no files: give the file with images and categories"
    if isinstance(task, dict) and "data" not in task and IMAGE in task:
        return "; it looks like JSON-MIN: export JSON"
    return ""


def _has_shape(item: Mapping[str, Any]) -> bool:
    """Whether a result lies somewhere in the image; a choice or a text about the whole image does not."""
    value = item.get("value")
    return str(item.get("type", "")).endswith(_LABELS) or (isinstance(value, dict) and not _SHAPES.isdisjoint(value))


def _regions(
    results: Iterable[Mapping[str, Any]], path: Path | str, file_name: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Label and pixels of every region.

    A region is one result, or several of one id: where shape and label are separate controls, and where questions about
    the region were answered, each of them repeats the shape.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for number, item in enumerate(results, 1):
        groups.setdefault(str(item.get("id", f"number {number}")), []).append(item)
    for name, items in groups.items():
        with naming_region(path, file_name, f"region {name}"):
            labels = [label for item in items for label in _labels_of(item)]
            if not labels:
                raise ValueError("it has no label; choose one in Label Studio, or delete the region")
            pixels = _pixels(items[0])
        yield from ((label, pixels) for label in labels)


def _labels_of(item: Mapping[str, Any]) -> Sequence[Any]:
    kind = str(item.get("type", ""))
    labels = item["value"].get(kind) or () if kind.endswith(_LABELS) else ()
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {short(labels)}; expected a list of names")
    return labels


def _pixels(item: Mapping[str, Any]) -> np.ndarray:
    kind, value = str(item["type"]), item["value"]
    size = item["original_height"], item["original_width"]
    if "rle" in value:
        return decode_brush(value["rle"], size)
    if "points" not in value or kind.startswith(_OPEN):
        raise ValueError(f"it is of type {short(kind)}; expected {' or '.join(_KINDS.values())}")
    with np.errstate(over="ignore"):  # of a corner that is refused then
        corners = np.asarray(value["points"], dtype=np.float64) * np.array(size[::-1]) / 100
    return fill_polygon(corners, size)


LABEL_STUDIO = Format(
    name="label-studio",
    ending=".json",
    write=write_label_studio,
    is_at=lambda path: starts_with(path, "["),
    read=lambda path, known: read_label_studio(path),
)
