"""Where the image-level labels of PASCAL VOC come from: a CSV, the field's `cls_labels.npy`, or the XML annotations.

Pixel masks are no source: a label that is read off a mask would be a pixel label in disguise.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from weakclip.datasets.classes import VOC12
from weakclip.datasets.faults import Fault, noting
from weakclip.datasets.label_tables import reading_text
from weakclip.errors import BrokenFileError, DataError
from weakclip.store.untrusted_npy import read_npy
from weakclip.store.untrusted_text import refuse_doctype, short

CSV, NPY, XML = "image_labels.csv", "cls_labels.npy", "Annotations"
"""The sources in the order in which they are preferred, as they are called in the VOC2012 folder."""


class VOCLabels:
    """The image-level labels of a VOC2012 folder, from the first source that is there.

    Attributes:
        source: "image_labels.csv", "cls_labels.npy" or "Annotations".

    Args:
        root: the VOC2012 folder.
        faults: gets one for every image whose labels in a table are wrong; None: the first is an error.

    Raises:
        DataError: a source that is there and cannot be read.
    """

    def __init__(self, root: Path, faults: list[Fault] | None = None) -> None:
        self.root = root
        self.source = next((name for name in (CSV, NPY) if (root / name).is_file()), XML)
        self._table: dict[str, tuple[int, ...]] = {}
        if self.source == CSV:
            self._table = read_label_csv(root / CSV, faults)
        elif self.source == NPY:
            self._table = read_label_npy(root / NPY, faults)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """Ascending foreground indices of an image; empty where the source does not know it.

        Raises:
            DataError: an annotation that cannot be read.
        """
        if self.source != XML:
            return self._table.get(name, ())
        path = self.root / XML / f"{name}.xml"
        return read_xml_labels(path) if path.is_file() else ()

    def missing(self, names: Iterable[str]) -> list[str]:
        """The images that the source does not know, or that it gives no label; annotations are not opened."""
        if self.source == XML:
            known = {path.stem for path in (self.root / XML).glob("*.xml")}
        else:
            known = {name for name, labels in self._table.items() if labels}
        return [name for name in names if name not in known]


def read_label_csv(path: Path, faults: list[Fault] | None = None) -> dict[str, tuple[int, ...]]:
    """Image-level labels from a CSV with the columns image and labels (class names with spaces between).

    `faults` gets one for every row that is passed over because something is wrong with it; None: the first is an error.

    Raises:
        DataError: no CSV in UTF-8, other columns, an unknown class, or an image twice; with the line.
    """
    labels: dict[str, tuple[int, ...]] = {}
    with reading_text(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"image", "labels"} <= set(rows.fieldnames or ()):
            raise DataError(f"{path}: expected the columns image,labels; found {','.join(rows.fieldnames or ())!r}")
        for row in rows:
            image, where = row["image"] or "", f"{path}, line {rows.line_num}"
            with contextlib.nullcontext() if faults is None else noting(faults, image):
                known = image in labels
                labels[image] = ()
                if known:
                    raise DataError(f"{where}: image {image!r} is listed twice")
                labels[image] = _csv_indices(row["labels"], where)
    return labels


def _csv_indices(cell: str | None, where: str) -> tuple[int, ...]:
    try:
        return VOC12.foreground_indices((cell or "").split())
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def read_label_npy(path: Path, faults: list[Fault] | None = None) -> dict[str, tuple[int, ...]]:
    """Image-level labels from the dictionary that PSA, MCTformer and their kin ship: image name to 20 zeros and ones.

    The file is a pickle; it is read without running anything in it. IRN's names are whole numbers, 2007000032 for
    2007_000032; they are read too. `faults` is as for `read_label_csv`.

    Raises:
        DataError: not such a dictionary, a vector of another length, or a value that is neither 0 nor 1.
    """
    content = read_npy(path)
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected a dictionary, image name to 20 numbers; found {type(content).__name__}")
    labels: dict[str, tuple[int, ...]] = {}
    for key, value in content.items():
        with contextlib.nullcontext() if faults is None else noting(faults, str(key)):
            labels[_image_name(path, key)] = _indices(path, key, value)
    return labels


def _image_name(path: Path, key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int | np.integer) and key >= 10**9:
        return f"{key // 10**6}_{key % 10**6:06d}"
    raise DataError(f"{path}: expected image names such as '2007_000032'; found {short(key)}")


def _indices(path: Path, key: Any, value: Any) -> tuple[int, ...]:
    count = VOC12.num_classes - 1
    if not isinstance(value, np.ndarray) or value.shape != (count,) or value.dtype.kind not in "biuf":
        found = value.shape if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(f"{path}: image {str(key)[:100]}: expected {count} numbers, one a class; found {found}")
    if not np.isin(value, (0, 1)).all():
        raise DataError(
            f"{path}: image {str(key)[:100]}: expected zeros and ones; found {value[~np.isin(value, (0, 1))][0]}"
        )
    return tuple((np.flatnonzero(value) + 1).tolist())


def read_xml_labels(path: Path) -> tuple[int, ...]:
    """Image-level labels from an XML annotation: the class of every object.

    Objects marked difficult count, as they do in the `cls_labels.npy` of PSA (Ahn and Kwak, CVPR 2018), whose
    `make_cls_labels.py` looks at no object's mark; the `name` of an object's parts (head, hand, foot) is no class.

    Raises:
        DataError: not well-formed, a document type declaration (which could define entities), or an unknown class.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenFileError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        refuse_doctype(io.BytesIO(data))
        tree = ElementTree.fromstring(data)
        return VOC12.foreground_indices(name.text or "" for name in tree.findall("object/name"))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise BrokenFileError(f"{path}: not a well-formed XML annotation ({error})") from None
    except DataError as error:
        raise BrokenFileError(f"{path}: {error}") from None
