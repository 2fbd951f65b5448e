"""Mistakes in labels and lists: each with its place, and all that are the same mistake together."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weakclip.errors import DataError
from weakclip.store.trees import AnyPath

PLACES = 3
"""Places of one mistake that are named; a report as JSON has all."""


@dataclass(frozen=True)
class Fault:
    """Something in labels or lists that cannot be used.

    Args:
        error: one line: where, what was found, what was expected.
        image: the image that it is about, as the labels or lists name it; empty where it is about none.
        mistake: the same line without its place and without what stands there, `…` instead: equal for every row with
            the same mistake. Empty where `error` is that line.
        place: file and line, and what stands there.
    """

    error: str
    image: str = ""
    mistake: str = ""
    place: str = ""


class RowError(DataError):
    """A mistake that many rows can have, each with another word in it.

    Args:
        pieces: the message, in pieces; `found` stands between them.
        found: what a row has there, one less than the pieces.

    >>> error = RowError("no image ", " here; correct the name", found=["'x.png'"])
    >>> str(error), error.mistake
    ("no image 'x.png' here; correct the name", 'no image … here; correct the name')
    """

    def __init__(self, *pieces: str, found: Sequence[str]) -> None:
        words = [*found, ""]
        super().__init__("".join(piece + word for piece, word in zip(pieces, words, strict=True)))
        self.mistake, self.found = "…".join(pieces), tuple(found)


class LabelError(DataError):
    """Everything that is wrong with some labels: the message says the first, and how many more there are.

    Args:
        faults: what is wrong.
        folder: the data set's folder, as it can be given to `weakclip data check`.
    """

    def __init__(self, faults: Sequence[Fault], folder: AnyPath | str) -> None:
        self.faults = tuple(dict.fromkeys(faults))
        more = len(self.faults) - 1
        rest = f" (and {more:,} more; `weakclip data check {shlex.quote(str(folder))}` lists all)" if more else ""
        super().__init__(self.faults[0].error + rest)


class noting:  # noqa: N801, used like a function
    """Add what is wrong with an image's labels to `faults`, and go on.

    A class, for a table may have millions of rows, and a generator takes three times as long.

    Args:
        faults: gets one.
        image: the image, as it is written.
        where: file and line; empty where the error names them.
    """

    __slots__ = ("_faults", "_image", "_where")

    def __init__(self, faults: list[Fault], image: str = "", where: str = "") -> None:
        self._faults, self._image, self._where = faults, image, where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DataError):
            return False
        where, image = self._where, self._image.strip()
        said = f"{where}: {error}" if where else str(error)
        found = f" ({' and '.join(error.found)})" if isinstance(error, RowError) else ""
        mistake = error.mistake if isinstance(error, RowError) else str(error)
        self._faults.append(Fault(said, image, mistake, f"{where}{found}") if where else Fault(said, image))
        return True


def same_mistakes(faults: Iterable[Fault]) -> list[tuple[Fault, ...]]:
    """The faults, those with the same mistake together, in the order of the first of each."""
    groups: dict[str, list[Fault]] = {}
    for fault in dict.fromkeys(faults):
        groups.setdefault(fault.mistake or fault.error, []).append(fault)
    return [tuple(group) for group in groups.values()]


def mistake_line(group: Sequence[Fault]) -> str:
    """One line for the faults with one mistake: the mistake, how often it is there, and the first places.

    >>> mistake_line([Fault("a.csv, line 2: no cat", "", "no cat", "a.csv, line 2"),
    ...               Fault("a.csv, line 5: no cat", "", "no cat", "a.csv, line 5")])
    'no cat: 2 times: a.csv, line 2; line 5'
    """
    if len(group) == 1:
        return group[0].error
    shown, last = [], ""
    for fault in group[:PLACES]:
        file, comma, line = fault.place.rpartition(", line ")
        shown.append(f"line {line}" if comma and file == last else fault.place)
        last = file
    more = "; …" if len(group) > PLACES else ""
    return f"{group[0].mistake}: {len(group):,} times: {'; '.join(shown)}{more}"
