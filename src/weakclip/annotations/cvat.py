"""CVAT for images 1.1 (docs.cvat.ai, XML annotation format): `<image>` elements with `<mask>` or `<polygon>` in them.

The `rle` of a mask counts pixels outside and inside in turn, along the rows of the box `left, top, width, height`; the
first run lies outside. CVAT takes only annotations of labels that its task has: `STEM.labels.json` is for the raw
editor of labels, where a task is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from weakclip.annotations.entries import (
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    label_colors,
    labelled_regions,
    naming_region,
    shown,
    tight_box,
)
from weakclip.annotations.forms import Format, starts_with
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.regions import decode_runs, encode_runs, fill_polygon
from weakclip.errors import DataError
from weakclip.store.files import atomic_write, write_text
from weakclip.store.untrusted_text import refuse_doctype

_DRAWN = ("mask", "polygon")
_NO_SHAPE = "tag"  # about the image as a whole


def write_cvat(path: Path | str, entries: Iterable[MaskEntry], class_set: ClassSet, shapes: Shapes) -> int:
    """Write masks as annotations of CVAT, and the task's labels as `STEM.labels.json`; arguments as `Format.write`."""
    labels, colors = annotation_labels(class_set), label_colors(class_set)
    path, count = Path(path), 0
    described = [{"name": name, "color": colors[name], "attributes": []} for name in labels]
    write_text(path.with_suffix(".labels.json"), json.dumps(described, indent=1))
    with atomic_write(path, "w") as file:
        _write_head(file, colors)
        for entry in entries:
            _write_image(file, count, entry, labels, shapes)
            count += 1
        file.write("</annotations>\n")
    return count


def _write_head(file: IO[str], colors: Mapping[str, str]) -> None:
    file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
    file.write("  <meta>\n    <task>\n      <name>weakclip</name>\n      <mode>annotation</mode>\n      <labels>\n")
    for name, color in colors.items():
        file.write(
            f"        <label><name>{escape(name)}</name><color>{color}</color><attributes></attributes></label>\n"
        )
    file.write("      </labels>\n    </task>\n  </meta>\n")


def _write_image(file: IO[str], number: int, entry: MaskEntry, labels: Mapping[str, int], shapes: Shapes) -> None:
    height, width = entry.mask.shape
    file.write(f'  <image id="{number}" name={quoteattr(entry.file_name)} width="{width}" height="{height}">\n')
    for name, pixels in labelled_regions(entry.mask, labels):
        common = f'label={quoteattr(name)} source="auto" occluded="0"'
        if shapes.kind == "masks":
            left, top, wide, high = tight_box(pixels)
            runs = ", ".join(map(str, encode_runs(pixels[top : top + high, left : left + wide], order="C")))
            box = f'left="{left}" top="{top}" width="{wide}" height="{high}"'
            file.write(f'    <mask {common} rle="{runs}" {box} z_order="0"></mask>\n')
            continue
        for polygon in shapes.polygons(pixels):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
            file.write(f'    <polygon {common} points="{points}" z_order="0"></polygon>\n')
    file.write("  </image>\n")


def read_cvat(path: Path | str) -> Iterator[AnnotatedImage]:
    """The images of an XML file of CVAT, one at a time; a higher `z_order` lies above, and of equals the later one.

    Raises:
        DataError: not such a file, a document type declaration (which could define entities), or a shape of another
            kind than mask and polygon.
    """
    try:
        with open(path, "rb") as file:
            refuse_doctype(file)
        events = ElementTree.iterparse(str(path), events=("start", "end"))
        _, root = next(events)
        if root.tag != "annotations":
            found = f"its root is <{shown(root.tag)}>"
            raise DataError(f"{path}: not annotations of CVAT ({found}); export CVAT for images 1.1")
        for event, element in events:
            if event == "end" and element.tag == "track":
                raise DataError(f"{path}: annotations of a video; export CVAT for images 1.1")
            if event == "end" and element.tag == "image":
                yield _annotated(element, path)
                root.clear()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ElementTree.ParseError, StopIteration, LookupError, ValueError) as error:  # the last two: of its encoding
        raise DataError(f"{path}: cannot be read as XML ({shown(error)})") from None


def _annotated(image: ElementTree.Element, path: Path | str) -> AnnotatedImage:
    name = image.get("name", "without a name")
    others = [shape.tag for shape in image if shape.tag not in (*_DRAWN, _NO_SHAPE)]
    if others:
        count = f" (and {len(others) - 1:,} more such shapes)" if len(others) > 1 else ""
        raise DataError(f"{path}, image {shown(name)}: it has a {shown(others[0])}{count}; expected masks and polygons")
    with naming_region(path, name, "the image"):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        shapes = sorted(image.iterfind("*"), key=lambda shape: int(shape.get("z_order", "0")))
        drawn = [shape for shape in shapes if shape.tag in _DRAWN]
        return AnnotatedImage(image.attrib["name"], size, _regions(drawn, size, path, name))


def _regions(
    shapes: Sequence[ElementTree.Element], size: tuple[int, int], path: Path | str, name: str
) -> Iterator[tuple[str, np.ndarray]]:
    for number, shape in enumerate(shapes, 1):
        with naming_region(path, name, f"{shape.tag} {number} of {len(shapes)}"):
            label, pixels = shape.attrib["label"], _pixels(shape, size)
        yield label, pixels


def _pixels(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    if shape.tag == "polygon":
        corners = [[float(number) for number in pair.split(",")] for pair in shape.attrib["points"].split(";")]
        return fill_polygon(np.array(corners), size)
    left, top, width, height = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
    runs = [int(number) for number in shape.attrib["rle"].split(",")]
    if not (0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]):
        raise ValueError(f"a mask of {sum(runs)} pixels in a box of {width}x{height} at {left}, {top}")
    pixels = np.zeros(size, dtype=bool)
    pixels[top : top + height, left : left + width] = decode_runs(runs, (height, width), order="C")
    return pixels


CVAT = Format(
    name="cvat",
    ending=".xml",
    write=write_cvat,
    is_at=lambda path: starts_with(path, "<"),
    read=lambda path, known: read_cvat(path),
)
