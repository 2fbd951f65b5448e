"""Tables with a column of 0 and 1 for each class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from weakclip.datasets.classes import BACKGROUND
from weakclip.datasets.faults import Fault, RowError, noting
from weakclip.datasets.label_tables import TextRow, TextTable
from weakclip.errors import DataError
from weakclip.store.untrusted_text import short

_SHOWN = {**dict.fromkeys(("1", "1.0", "true", "yes", "x"), True), **dict.fromkeys(("0", "0.0", "false", "no"), False)}
_COUNTER = re.compile(r"|index|unnamed: \d+")
"""Columns that programs add to number the rows."""


ToldRows = Callable[[list[Fault]], Iterator[tuple[TextRow, tuple[str, ...]]]]
"""Goes through a table: each row with its labels; the list gets a fault for every row that is passed over."""


def labels_of_columns(table: TextTable, image: int) -> tuple[ToldRows, list[str]]:
    """The labels of each row: the names of the columns with 1.

    A column is that of a class where at least half of its filled cells are 0 or 1 (or true and false, yes and no, x; or
    -1, which is a mistake then like any other value). An empty cell is 0 in a table without any 0, else a mistake; a
    row without any cell is untagged.

    Args:
        table: the table.
        image: which column names the images.

    Returns:
        Rows and labels, and a note on columns that are of no class.

    Raises:
        DataError: no such column, or two of one name.
    """
    filled, numbers, zero = ([0] * len(table.columns) for _ in range(3))
    for row in table.rows:
        for position in range(len(table.columns)):
            cell = row.cell(position).strip().casefold()
            filled[position] += bool(cell)
            numbers[position] += cell in _SHOWN or cell == "-1"
            zero[position] += _SHOWN.get(cell) is False
    classes, others = dict[int, str](), list[str]()
    for position, name in enumerate(table.columns):
        known = 0 < filled[position] <= 2 * numbers[position] and not _COUNTER.fullmatch(name.strip().casefold())
        if position != image and known and name.strip() != BACKGROUND:
            classes[position] = name.strip()
        elif position != image:
            others.append(name.strip())
    if not classes:
        raise DataError(
            f"{table.path}, line 1: expected the columns image,labels, or image and one of 0 and 1 for each class; "
            f"found {short(','.join(table.columns))}; name them in line 1"
        )
    twice = next((name for name, count in Counter(classes.values()).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{table.path}, line 1: two columns are called {twice!r}; give one of them another name")
    zeros = any(zero[position] for position in classes)

    def rows(faults: list[Fault]) -> Iterator[tuple[TextRow, tuple[str, ...]]]:
        for row in table.rows:
            labels = None
            with noting(faults, row.cell(image), row.where):
                labels = _labels(row, classes, zeros=zeros)
            if labels is not None:
                yield row, labels

    named = ", ".join(map(short, others))
    return rows, [f"{table.path}: columns of no class, not read: {named}"] if others else []


def _labels(row: TextRow, classes: dict[int, str], *, zeros: bool) -> tuple[str, ...]:
    cells = {name: row.cell(place).strip() for place, name in classes.items()}
    if not any(cells.values()):
        return ()
    for name, cell in cells.items():
        if cell.casefold() not in _SHOWN and (cell or zeros):
            found = short(cell) if cell else "an empty cell"
            raise RowError(f"column {name!r}: 0 or 1 expected; found ", "", found=[found])
    return tuple(name for name, cell in cells.items() if _SHOWN.get(cell.casefold(), False))
