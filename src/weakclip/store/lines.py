"""JSON Lines about images: added in any order by any thread, torn by a kill, and ordered in the end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weakclip.store.files import append_json, atomic_write, writing
from weakclip.store.share import current, parts
from weakclip.store.untrusted_text import parse_json


class LineLog:
    """One file of lines, each a JSON object with a `name`. Of two lines with one name the last one counts.

    A process that does a share of the work adds its lines to a file of its own beside it, which `finish` takes in.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = current().part(path)
        self._lock = threading.Lock()
        self._places = _index(path)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        with self._lock, writing(self._own):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._places[entry["name"]] = (self._own, append_json(self._own, entry))

    def refresh(self) -> None:
        """Look at what other processes have added meanwhile."""
        self._places = _index(self.path)

    def finish(self, names: Iterable[str]) -> None:
        """Write the lines of `names` in their order, whole or not at all; names without a line are left out."""
        self.refresh()
        if not self._places:
            return
        with contextlib.ExitStack() as stack:
            files = {path: stack.enter_context(path.open("rb")) for path in parts(self.path)}
            with atomic_write(self.path) as ordered:
                for name in names:
                    if name in self._places:
                        path, place = self._places[name]
                        files[path].seek(place)
                        ordered.write(files[path].readline())
        for path in files:
            if path != self.path:
                path.unlink()
        self.refresh()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file, one after the other; none where there is no file. Torn lines are passed over."""
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is not None:
                    yield entry


def _index(log: Path) -> dict[str, tuple[Path, int]]:
    """Name → the file where its last whole line is, and where in it that begins, bytes."""
    places: dict[str, tuple[Path, int]] = {}
    for path in parts(log):
        place = 0
        with path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is not None:
                    places[entry["name"]] = (path, place)
                place += len(line)
    return places


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a whole line, or None."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("name"), str) and line.endswith(b"\n")
    return entry if whole else None
