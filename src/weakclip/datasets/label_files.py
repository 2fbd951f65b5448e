"""The files in which people write labels: tables with a column of labels or one of 0 and 1 a class, and JSON Lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from weakclip.datasets.faults import Fault, LabelError, RowError, noting
from weakclip.datasets.label_tables import TextRow, TextTable, read_table, reading_text
from weakclip.datasets.one_hot import ToldRows, labels_of_columns
from weakclip.errors import DataError
from weakclip.store.trees import AnyPath, Stamp, stamp_of
from weakclip.store.untrusted_text import parse_json, short

IMAGE_COLUMNS = ("image", "filename", "file", "path", "filepath", "imagepath", "imagename", "imageid")
"""Names of the column of images, in small letters, without spaces, `_` and `-`; the first that is there counts."""
LABEL_COLUMNS = ("labels", "label", "tags", "tag", "classes", "class")
"""The same for that of labels. Rows of a column whose name is a plural are one an image."""
SINGULAR = ("label", "tag", "class")

_LISTED = re.compile(r"""\s*(?:\[.+\]|[({]\s*(['"]).*\1\s*,?\s*[)}])\s*""", re.DOTALL)
"""Labels that a program wrote as a list, a tuple or a set: ['cat', 'dog']."""


@dataclass(frozen=True)
class LabelRow:
    """One image and its class names, as written.

    Args:
        image: path of the image below the image folder, with or without its extension, as written: a name may begin
            with a space.
        labels: class names; none where nobody has tagged the image.
        where: file and line, for messages.
    """

    image: str
    labels: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class LabelFile:
    """The content of a file of labels.

    Args:
        rows: one an image. They are read anew each time, one at a time; those whose labels are joined are in memory.
        names: every label in them.
        faults: of rows that are passed over because something is wrong with them.
        notes: sentences on the parts of the file that are not read.
    """

    rows: Iterable[LabelRow]
    names: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


def read_label_rows(path: AnyPath) -> list[LabelRow]:
    """The rows of `read_label_file`.

    Raises:
        DataError: another form.
        LabelError: rows with mistakes, with their lines.
    """
    read = read_label_file(path)
    if read.faults:
        raise LabelError(read.faults, path.parent)
    return list(read.rows)


def read_label_file(path: AnyPath) -> LabelFile:
    """The labels of images, from a table or from JSON Lines `{"image": "…", "labels": ["…"]}`.

    A table (see `read_table`) has a column of images, called as in `IMAGE_COLUMNS`, and either a column of labels, as
    in `LABEL_COLUMNS`, or one of 0 and 1 for each class (see `labels_of_columns`). Labels are separated by `;` (or by
    `,` inside quotes), so that names may hold spaces: `cat; traffic light`. Where the column is called in the singular,
    an image may have several rows. Other columns are passed over.

    Args:
        path: the file; `.jsonl` is JSON Lines, `.xlsx` a workbook, everything else a CSV.

    Raises:
        DataError: another form.
    """
    try:
        stamp = stamp_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file of labels") from None
    return _read(path, stamp)


Rows = Callable[[list[Fault]], Iterator[LabelRow]]
"""Goes through a file; the list gets a fault for every row that is passed over."""


class _Rows:
    """The rows of a file, read anew each time."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[LabelRow]:
        return self._rows([])


@functools.lru_cache(maxsize=2)  # each split of a folder reads it
def _read(path: AnyPath, stamp: Stamp) -> LabelFile:
    faults: list[Fault] = []
    rows, notes, singular = _rows_of(path)
    if singular:
        joined = _joined_rows(rows(faults))
        return LabelFile(joined, frozenset(name for row in joined for name in row.labels), tuple(faults), notes)
    names: set[str] = set()
    for row in rows(faults):
        names.update(row.labels)
    return LabelFile(_Rows(rows), frozenset(names), tuple(faults), notes)


def _rows_of(path: AnyPath) -> tuple[Rows, tuple[str, ...], bool]:
    """The function that goes through a file, notes, and whether the rows of an image are to be joined."""
    if path.suffix.lower() == ".jsonl":
        return functools.partial(_json_rows, path), (), False
    table = read_table(path, _rank)
    image, labels = _find(table.columns, IMAGE_COLUMNS), _find(table.columns, LABEL_COLUMNS)
    if image is None or (labels is None and len(table.columns) < 2):
        raise DataError(
            f"{path}, line 1: expected the columns image,labels, or image and one of 0 and 1 for each class; found "
            f"{short(','.join(table.columns))}; name them in line 1"
        )
    if labels is None:
        told, notes = labels_of_columns(table, image)
    else:
        _refuse_second(table)
        told, notes = functools.partial(_labels_of_cells, table, image, labels), []
    singular = labels is not None and _plain(table.columns[labels]) in SINGULAR
    return functools.partial(_checked_rows, told, image), (*table.notes, *notes), singular


def _checked_rows(told: ToldRows, image: int, faults: list[Fault]) -> Iterator[LabelRow]:
    for row, names in told(faults):
        checked = None
        with noting(faults, where=row.where):
            checked = _checked_row(row.cell(image), names, row.where)
        if checked is not None:
            yield checked


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]", "", column).casefold()


def _find(columns: Sequence[str], names: Sequence[str]) -> int | None:
    """The position of the first of some names among the columns."""
    plain = [_plain(column) for column in columns]
    return next((plain.index(name) for name in names if name in plain), None)


def _rank(columns: Sequence[str]) -> int:
    found = [_find(columns, names) is not None for names in (IMAGE_COLUMNS, LABEL_COLUMNS)]
    return 2 * found[0] + found[1]


def _refuse_second(table: TextTable) -> None:
    """Two columns may be that of labels: nobody knows which. One that is called labels is meant."""
    plain = [_plain(column) for column in table.columns]
    others = [name for name in LABEL_COLUMNS if name in plain]
    twice = plain.count(others[0]) > 1
    if twice or (len(others) > 1 and others[0] != "labels"):
        named = " and ".join(repr(name) for name, each in zip(table.columns, plain, strict=True) if each in others)
        raise DataError(f"{table.path}, line 1: the columns {named} may both be labels; call the one that is labels")


def _labels_of_cells(
    table: TextTable, image: int, labels: int, faults: list[Fault]
) -> Iterator[tuple[TextRow, tuple[str, ...]]]:
    """Each row with the labels in its cell."""
    wanted = len(table.columns)
    for row in table.rows:
        names = None
        with noting(faults, row.cell(image), row.where):
            if len(row.cells) > wanted and any(map(str.strip, row.cells[wanted:])):
                advice = f" cells for {wanted} columns; separate labels by ';' inside quotes"
                raise RowError("", advice, found=[str(len(row.cells))])
            cell = row.cell(labels)
            _refuse_lists([cell])
            names = tuple(re.split("[;,]", cell))
        if names is not None:
            yield row, names


def _joined_rows(rows: Iterable[LabelRow]) -> list[LabelRow]:
    """One row an image, with the labels of all of its rows; equal labels are in memory once."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    names: dict[str, str] = {}
    for row in rows:
        where, before = found.get(row.image, (row.where, ()))
        new = dict.fromkeys(names.setdefault(label, label) for label in row.labels if label not in before)
        if new or row.image not in found:
            found[row.image] = where, (*before, *new)
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [LabelRow(image, known.setdefault(labels, labels), where) for image, (where, labels) in found.items()]


def _json_rows(path: AnyPath, faults: list[Fault]) -> Iterator[LabelRow]:
    with reading_text(path), path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            row = None
            if line.strip():
                with noting(faults, where=f"{path}, line {number}"):
                    row = _json_row(line, f"{path}, line {number}")
            if row is not None:
                yield row


def _json_row(line: str, where: str) -> LabelRow:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise RowError("not JSON (", ")", found=[str(error)]) from None
    labels = row.get("labels") if isinstance(row, dict) else None
    if not isinstance(labels, list) or not isinstance(row.get("image"), str):
        raise DataError('expected {"image": "…", "labels": ["…"]}')
    if not all(isinstance(label, str) for label in labels):
        raise RowError("labels are class names in quotes; found ", "", found=[short(labels)])
    _refuse_lists(labels)
    return _checked_row(row["image"], labels, where)


def _refuse_lists(labels: Iterable[str]) -> None:
    listed = next((label for label in labels if _LISTED.fullmatch(label)), None)
    if listed is not None:
        advice = " is a list in one text; write labels with ';' between: cat;dog"
        raise RowError("", advice, found=[short(listed)])


def _checked_row(image: str, labels: Iterable[str], where: str) -> LabelRow:
    if not image.strip():
        raise DataError("no image is named")
    if "\n" in image:
        advice = "; is a quote left open?"
        raise RowError("the name of an image goes on in the next line: ", advice, found=[short(image)])
    return LabelRow(image, tuple(label.strip() for label in labels if label.strip()), where)


def joined_labels(label: str, known: Collection[str]) -> list[str]:
    """The parts of a label that is several with a wrong separator between; empty where it is one.

    Args:
        label: as written.
        known: all labels.

    >>> joined_labels("cat/dog", {"cat", "dog"}), joined_labels("tv/monitor", {"cat"}), joined_labels("a|b", {"a"})
    (['cat', 'dog'], [], ['a', 'b'])
    """
    for mark in ("|", "+", "/", "&", "\\", None):  # None: any space
        parts = [part.strip() for part in label.split(mark)]
        if len(parts) > 1 and all(parts) and (mark == "|" or all(part in known for part in parts)):
            return parts
    return []
