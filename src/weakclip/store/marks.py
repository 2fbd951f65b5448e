"""The marks of a person on the masks of a run: `marks.jsonl`, JSON Lines that are only appended to. No torch here.

A line is the whole state of one image, and the last line on an image counts:

    {"time": "2026-03-01T10:00:00.000000+00:00", "reviewer": "anna", "image": "cats/007", "mark": "relabel",
     "labels": ["cat", "sofa"], "masks": "key of the masks that were looked at", "truth_seen": false}

`mark` is good, verified, bad, relabel or null (taken back); `labels` are the image's labels in place of the data set's,
or null. Several processes may append to one file: each line is written whole, under a lock of the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weakclip.errors import DataError
from weakclip.store.files import append_line, no_link
from weakclip.store.lock import waited_for
from weakclip.store.untrusted_text import parse_json, short

MARKS = "marks.jsonl"
"""The file's name in a run folder."""

VERDICTS = ("good", "verified", "bad", "relabel")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One line.

    Args:
        time: when, in ISO 8601; tells two marks on one image apart.
        image: its name in the data set.
        mark: "good", "verified" (right as it is), "bad" or "relabel"; None for a mark that was taken back.
        labels: foreground class names in place of the data set's labels; None for those. A mark of good or bad on an
            image that was relabelled keeps its labels.
        masks: key of the stage result that was looked at (`manifest.json`); None where it is not known.
        truth_seen: whether the true mask was in view: such a mark carries pixel labels into training.
        reviewer: who made it; empty in files of earlier versions.
        pixels: digest of the mask that was judged, as `datasets.images.mask_digest`; None where it is not known.
        copied: of "verified": whether the mark has put the mask among the verified ones, so that the next mark on the
            image takes it out again. False where a person's own mask lies there.
        undo: whether the line gives back the state before the reviewer's last mark on the image.
    """

    image: str
    mark: str | None = None
    labels: tuple[str, ...] | None = None
    time: str = ""
    masks: str | None = None
    truth_seen: bool = False
    reviewer: str = ""
    pixels: str | None = None
    copied: bool = False
    undo: bool = False


def now() -> str:
    """The time of a mark that is made now."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_marks(path: Path | str) -> tuple[dict[str, Mark], int]:
    """The last mark on each image, and how many lines are no JSON (torn by a kill, for instance) and were passed over.

    Raises:
        DataError: the file cannot be read, or a line that is JSON and no mark.
    """
    marks, torn = every_mark(path)
    return {mark.image: mark for mark in marks}, torn


def every_mark(path: Path | str) -> tuple[list[Mark], int]:
    """All marks in their order, and the number of lines that were passed over; as `read_marks`."""
    path = Path(path)
    marks: list[Mark] = []
    torn = 0
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected the marks of `weakclip review`") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError:
            torn += 1
            continue
        marks.append(_mark(entry, f"{path}, line {number}"))
    return marks, torn


def _mark(entry: Any, where: str) -> Mark:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise DataError(f"{where}: no mark; expected a JSON object with the name of an image under 'image'")
    verdict, labels = entry.get("mark"), entry.get("labels")
    if verdict is not None and verdict not in VERDICTS:
        raise DataError(f"{where}: mark {short(verdict)}; expected {', '.join(VERDICTS)} or null")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(name, str) for name in labels)):
        raise DataError(f"{where}: labels {short(labels)}; expected a list of class names, or null")
    masks, reviewer, pixels = (entry.get(key) for key in ("masks", "reviewer", "pixels"))
    return Mark(
        image=entry["image"],
        mark=verdict,
        labels=None if labels is None else tuple(labels),
        time=str(entry.get("time", "")),
        masks=masks if isinstance(masks, str) else None,
        truth_seen=entry.get("truth_seen") is True,
        reviewer=reviewer if isinstance(reviewer, str) else "",
        pixels=pixels if isinstance(pixels, str) else None,
        copied=entry.get("copied") is True,
        undo=entry.get("undo") is True,
    )


class MarkFile:
    """The marks of a run folder, read again when another process has added to them. Safe to use from several threads.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._marks: dict[str, Mark] = {}
        self._seen: tuple[int, int] | None = None

    def current(self) -> Mapping[str, Mark]:
        """The last mark on each image; later marks may appear in the mapping, so look up in it and do not walk it.

        Raises:
            DataError: as `read_marks`.
        """
        with self._lock:
            self._refresh()
            return MappingProxyType(self._marks)

    def add(
        self,
        mark: Mark,
        *,
        after: str | None = None,
        prepare: Callable[[Mark | None, Mark], Mark] = lambda before, mark: mark,
    ) -> bool:
        """Append a mark, and return when it is on the disk. No other process adds one meanwhile.

        Args:
            mark: the image's whole state.
            after: if given, the mark is made only where the image's last one is of this time ("" for none).
            prepare: from the image's last mark and the new one to the line that is written, just before that.

        Returns:
            Whether it was made.

        Raises:
            OSError: the file cannot be written, or not wholly.
            DataError: as `read_marks`.
        """
        with self._lock, open(self.path, "ab+", buffering=0, opener=no_link) as file, waited_for(file.fileno()):
            self._refresh()
            last = self._marks.get(mark.image)
            if after is not None and after != (last.time if last else ""):
                return False
            mark = prepare(last, mark)
            _append(file, self.path, mark)
            self._marks[mark.image] = mark
            self._seen = self._stat()
            return True

    def _refresh(self) -> None:
        seen = self._stat()
        if seen != self._seen:
            self._marks = read_marks(self.path)[0] if seen[0] else {}
            self._seen = seen

    def _stat(self) -> tuple[int, int]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns


def _append(file: FileIO, path: Path, mark: Mark) -> None:
    """Write the line of a mark, down to the disk."""
    is_new = not file.seek(0, os.SEEK_END)
    append_line(file, asdict(mark))
    os.fsync(file.fileno())
    if is_new:
        with contextlib.suppress(OSError):  # a folder cannot be opened everywhere
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
