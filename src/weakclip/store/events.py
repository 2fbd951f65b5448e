"""Events of a run, in `log.jsonl` of its folder: a line of JSON each, for people and programs that watch it.

`begin`, and `end` or `stopped`, of a stage; `throughput` once a minute and at the end of each part of its work: how
many items a second, how many stand between the two sides of the work, and which side the other one waits for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from weakclip.errors import StorageError
from weakclip.store.files import append_json
from weakclip.store.share import current

Item = TypeVar("Item")

EMPTY: Mapping[str, Any] = MappingProxyType({})
LINE_EVERY = 60.0
"""Seconds from line to line while work goes on."""

_places: list[tuple[Path, str]] = []


@contextlib.contextmanager
def stage_events(path: Path, stage: str) -> Iterator[None]:
    """A context in which the events of a stage go to a file; for the main thread.

    Args:
        path: the file, to which lines are appended.
        stage: its name.

    Raises:
        StorageError: the file cannot be written.
    """
    _places.append((path, stage))
    started = time.perf_counter()
    try:
        note("begin")
        yield
        note("end", {"seconds": round(time.perf_counter() - started, 2)})
    except BaseException as error:
        with contextlib.suppress(StorageError):
            note("stopped", {"seconds": round(time.perf_counter() - started, 2), "error": type(error).__name__})
        raise
    finally:
        _places.pop()


def note(event: str, values: Mapping[str, Any] = EMPTY) -> None:
    """Append a line where a stage is at work, by the main one of its processes or by each shard; else do nothing."""
    share = current()
    if not _places or not share.is_main:
        return
    path, stage = _places[-1]
    which = {"share": f"{share.rank}/{share.count}"} if share.count > 1 else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_json(path, {"time": now, "event": event, "stage": stage, **which, **values})


class Meter:
    """Measures which of two sides of some work waits for the other.

    Args:
        work: what is being done.
        sides: names of the side that items are taken from and of the one that they are given to.
        size: of an item, in what is counted.
    """

    def __init__(self, work: str, sides: tuple[str, str] = ("making", "finishing"), size: int = 1) -> None:
        self.work, self.sides, self.size = work, sides, size
        self._started = self._said = time.perf_counter()
        self._first = 0.0  # seconds that the first side took
        self._taken = self._finished = self._standing = 0
        self._lock = threading.Lock()

    def taken(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and measure how long they take to come."""
        iterator = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._first += time.perf_counter() - asked
            self._taken += 1
            self._standing += self._taken - self._finished
            yield item
            del item  # else it stays while the next one is made
            if time.perf_counter() - self._said >= LINE_EVERY:
                self.tell()

    def finished(self) -> None:
        """Count an item whose work is done; any thread may call this."""
        with self._lock:
            self._finished += 1

    def tell(self) -> None:
        """Note the throughput until now; nothing where there was no item."""
        self._said = time.perf_counter()
        seconds, done = max(self._said - self._started, 1e-9), self._finished * self.size
        if self._taken:
            first = min(1.0, self._first / seconds)
            rates = {"items": done, "items_per_second": round(done / seconds, 2)}
            waits = {f"{self.sides[0]}_share": round(first, 3), "waits_for": self.sides[first < 0.5]}
            queue = round(self._standing / self._taken, 2)
            note("throughput", {"work": self.work, **rates, "queue": queue, **waits})
