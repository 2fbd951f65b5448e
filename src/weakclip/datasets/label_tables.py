"""Tables that people keep, as rows of text: CSV with any of three separators, TSV, and the first sheet of an XLSX."""

from __future__ import annotations

import contextlib
import csv
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from weakclip.errors import DataError, first_line
from weakclip.store.trees import AnyPath
from weakclip.store.untrusted_text import refuse_doctype

SEPARATORS = ",;\t"
WORKBOOK = ".xlsx"
OTHER_WORKBOOKS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")

MOST_COLUMNS = 2000
MOST_BYTES = 2**30
"""Of an unpacked workbook."""


@dataclass(frozen=True)
class TextRow:
    """A row of a table.

    Args:
        where: file and line, for messages.
        cells: as written, in the order of the columns.
    """

    where: str
    cells: tuple[str, ...]

    def cell(self, column: int) -> str:
        """The text in a column; empty where the row ends before it."""
        return self.cells[column] if column < len(self.cells) else ""


@dataclass(frozen=True)
class TextTable:
    """A table.

    Args:
        path: its file.
        columns: the names in its first line.
        rows: the others, without those that are empty; those of a CSV are read anew each time, one at a time.
        notes: sentences on the parts of the file that are not read.
    """

    path: AnyPath
    columns: tuple[str, ...]
    rows: Iterable[TextRow]
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def reading_text(path: AnyPath) -> Iterator[None]:
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


def read_table(path: AnyPath, rank: Callable[[Sequence[str]], int]) -> TextTable:
    """A table as rows of text.

    Of a CSV, the separator is the comma, semicolon or tab that makes the best columns of the first line, the most if
    several do; UTF-16 with a byte order mark, as Excel's "Unicode text", is read like UTF-8.

    Args:
        path: the file.
        rank: how good the names of some columns are.

    Raises:
        DataError: a file that cannot be read, or is none of these.
    """
    ending = path.suffix.lower()
    if ending in OTHER_WORKBOOKS:
        raise DataError(f"{path}: workbooks are read as .xlsx only; save it as .xlsx or as CSV")
    with reading_text(path):
        return _workbook(path) if ending == WORKBOOK else _text(path, rank)


class _Lines:
    """The rows of a CSV below its head.

    Args:
        path: the file.
        encoding: of its text.
        separator: between the cells.
        head: how many lines the head takes.
    """

    def __init__(self, path: AnyPath, encoding: str, separator: str, head: int) -> None:
        self._path, self._encoding, self._separator, self._head = path, encoding, separator, head

    def __iter__(self) -> Iterator[TextRow]:
        with reading_text(self._path), self._path.open(newline="", encoding=self._encoding) as lines:
            for _ in range(self._head):
                next(lines, "")
            reader, place = csv.reader(lines, delimiter=self._separator), f"{self._path}, line "
            for cells in reader:
                if _filled(cells):
                    yield TextRow(f"{place}{reader.line_num + self._head}", tuple(cells))


def _text(path: AnyPath, rank: Callable[[Sequence[str]], int]) -> TextTable:
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if wide else "utf-8-sig"
    with path.open(newline="", encoding=encoding) as lines:
        header, first = next(lines, ""), 1
        if header.startswith("sep="):  # Excel's word on the separator
            header, first = next(lines, ""), 2
    read = {mark: next(csv.reader([header], delimiter=mark), []) for mark in SEPARATORS}
    separator = max(SEPARATORS, key=lambda mark: (rank(read[mark]), len(read[mark])))
    table = TextTable(path, tuple(read[separator]), _Lines(path, encoding, separator, first))
    if len(table.columns) > 1:
        _refuse_other_separator(table, separator)
    return table


def _refuse_other_separator(table: TextTable, separator: str) -> None:
    """A head with one separator above lines that all have another."""
    others, first = set(SEPARATORS), ""
    for row in table.rows:
        first = first or row.where
        others = {mark for mark in others if len(row.cells) == 1 and mark in row.cells[0]}
        if not others:
            return
    if first:
        other = next(mark for mark in SEPARATORS if mark in others)
        raise DataError(
            f"{first}: line 1 is separated by {separator!r}, the others by {other!r}; use one of them in all"
        )


def _filled(cells: Sequence[str]) -> bool:
    return any(map(str.strip, cells))


def _workbook(path: AnyPath) -> TextTable:
    """The first sheet; others that hold something are noted."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise DataError(
            f"{path}: reading XLSX needs openpyxl; `pip install weakclip[xlsx]`, or save it as CSV"
        ) from None
    with path.open("rb") as file:
        _check_archive(path, file)
        return _first_sheet(path, file, load_workbook)


def _first_sheet(path: AnyPath, file: IO[bytes], load_workbook: Callable[..., Any]) -> TextTable:
    try:
        book = load_workbook(file, read_only=True, data_only=True)
        first, *others = book.worksheets
        columns, *rows = list(_sheet(path, first)) or [TextRow("", ())]
        unread = [sheet.title for sheet in others if next(_sheet(path, sheet), None) is not None]
        book.close()
    except (DataError, OSError):
        raise
    except Exception as error:  # openpyxl lets through many kinds
        raise DataError(f"{path}: not an XLSX workbook ({first_line(error)}); save it anew, or as CSV") from None
    notes = (f"{path}: the first sheet is read, not {', '.join(map(repr, unread))}",) if unread else ()
    return TextTable(path, columns.cells, tuple(rows), notes)


def _sheet(path: AnyPath, sheet: Any) -> Iterator[TextRow]:
    sheet.reset_dimensions()  # what the file says of them may be wrong
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if len(cells) > MOST_COLUMNS:
            raise DataError(f"{path}, line {number}: {len(cells):,} columns; {MOST_COLUMNS:,} at most")
        texts = tuple(map(_cell_text, cells))
        if _filled(texts):
            yield TextRow(f"{path}, line {number}", texts)


def _cell_text(value: object) -> str:
    """As a person sees it: 1.0 is 1.

    >>> _cell_text(1.0), _cell_text(None), _cell_text(True), _cell_text(0.5)
    ('1', '', 'True', '0.5')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _check_archive(path: AnyPath, content: IO[bytes]) -> None:
    """Refuse what unpacks to more than can be, and XML that defines entities."""
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_BYTES:
                raise DataError(f"{path}: unpacks to {size:,} bytes; {MOST_BYTES:,} at most; save it as CSV")
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    refuse_doctype(file)
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: not an XLSX workbook ({first_line(error)}); save it anew, or as CSV") from None
