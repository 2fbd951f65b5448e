"""The files in which people write labels: `labels.csv` and `labels.jsonl`."""

from __future__ import annotations

import contextlib
import csv
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.datasets.base import Fault
from weakclip.errors import DataError
from weakclip.store.untrusted_text import parse_json, short

_LISTED = re.compile(r"""\s*(?:\[.+\]|[({]\s*(['"]).*\1\s*,?\s*[)}])\s*""", re.DOTALL)
"""Labels that a program wrote as a list, a tuple or a set: ['cat', 'dog']."""


@dataclass(frozen=True)
class LabelRow:
    """One image and its class names, as written.

    Args:
        image: path of the image below the image folder, with or without its extension, as written: a name may begin
            with a space.
        labels: class names; at least one.
        where: file and line, for messages.
    """

    image: str
    labels: tuple[str, ...]
    where: str


class LabelError(DataError):
    """Everything that is wrong with some labels: the message says the first, and how many more there are.

    Args:
        faults: what is wrong.
        folder: the data set's folder, as it can be given to `weakclip data check`.
    """

    def __init__(self, faults: Sequence[Fault], folder: Path | str) -> None:
        self.problems = tuple(dict.fromkeys(fault.error for fault in faults))
        more = len(self.problems) - 1
        rest = f" (and {more:,} more; `weakclip data check {shlex.quote(str(folder))}` lists all)" if more else ""
        super().__init__(self.problems[0] + rest)


@contextlib.contextmanager
def noting(faults: list[Fault], image: str = "") -> Iterator[None]:
    """Add what is wrong with an image's labels to `faults`, and go on."""
    try:
        yield
    except DataError as error:
        faults.append(Fault(str(error), image.strip()))


@contextlib.contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Turn what Python says of a text or CSV file in another form into one line that names it.

    Raises:
        DataError: cannot be read, not UTF-8, or not a CSV file.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a readable file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None


def read_label_rows(path: Path, faults: list[Fault] | None = None) -> list[LabelRow]:
    """Rows of a CSV with the columns image and labels, or of JSON Lines `{"image": "…", "labels": ["…"]}`.

    In a CSV, labels are separated by `;` (or by `,` inside quotes), so that names may hold spaces:
    `cat; traffic light`. The columns are separated by a comma, a semicolon or a tab, as the header line is; columns of
    other names are passed over.

    Args:
        path: the file; `.jsonl` is JSON Lines, everything else a CSV.
        faults: gets one for every row that is passed over because something is wrong with it.

    Raises:
        DataError: another form.
        LabelError: rows without image or labels, with their lines; where `faults` is None.
    """
    found: list[Fault] = []
    with reading_text(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = list((_json_rows if path.suffix == ".jsonl" else _csv_rows)(file, path, found))
    if faults is None and found:
        raise LabelError(found, path.parent)
    if faults is not None:
        faults += found
    return rows


def _csv_rows(lines: Iterable[str], path: Path, faults: list[Fault]) -> Iterator[LabelRow]:
    lines = iter(lines)
    header = next(lines, "")
    read = {mark: [name.strip().lower() for name in next(csv.reader([header], delimiter=mark), [])] for mark in ",;\t"}
    delimiter = next((mark for mark, names in read.items() if {"image", "labels"} <= set(names)), "")
    if not delimiter:
        raise DataError(
            f"{path}, line 1: expected the columns image,labels; found {short(header.strip())}; name them in line 1"
        )
    columns, reader = read[delimiter], csv.reader(lines, delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            image = dict(zip(columns, cells, strict=False)).get("image", "")
            with noting(faults, image):
                yield _csv_row(columns, cells, f"{path}, line {reader.line_num + 1}")


def _csv_row(columns: Sequence[str], cells: Sequence[str], where: str) -> LabelRow:
    if len(cells) > len(columns):
        raise DataError(f"{where}: {len(cells)} cells for {len(columns)} columns; separate labels by ';' inside quotes")
    row = dict(zip(columns, cells, strict=False))
    cell = row.get("labels", "")
    _refuse_lists([cell], where)
    return _checked_row(row.get("image", ""), re.split("[;,]", cell), where)


def _json_rows(lines: Iterable[str], path: Path, faults: list[Fault]) -> Iterator[LabelRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with noting(faults):
                yield _json_row(line, f"{path}, line {number}")


def _json_row(line: str, where: str) -> LabelRow:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    labels = row.get("labels") if isinstance(row, dict) else None
    if not isinstance(labels, list) or not isinstance(row.get("image"), str):
        raise DataError(f'{where}: expected {{"image": "…", "labels": ["…"]}}')
    if not all(isinstance(label, str) for label in labels):
        raise DataError(f"{where}: labels are class names in quotes; found {short(labels)}")
    _refuse_lists(labels, where)
    return _checked_row(row["image"], labels, where)


def _refuse_lists(labels: Iterable[str], where: str) -> None:
    listed = next((label for label in labels if _LISTED.fullmatch(label)), None)
    if listed is not None:
        raise DataError(f"{where}: {short(listed)} is a list in one text; write labels with ';' between: cat;dog")


def _checked_row(image: str, labels: Iterable[str], where: str) -> LabelRow:
    names = tuple(label.strip() for label in labels if label.strip())
    if not image.strip():
        raise DataError(f"{where}: no image is named")
    if not names:
        raise DataError(f"{where}: image {short(image.strip())} has no labels; name its classes or take the row out")
    return LabelRow(image, names, where)


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
