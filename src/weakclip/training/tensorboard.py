"""The curves of a training for TensorBoard: `log.jsonl` once more, as an event file.

The event file is made anew from the kept lines of `log.jsonl` whenever a training starts or goes on, and then grows
line by line: no step is in it twice, whatever stopped the training before. TensorBoard's own classes write it; torch's
`SummaryWriter` is not used, because it imports TensorFlow where that is installed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from weakclip.store.files import append_bytes, atomic_write

FOLDER = "tensorboard"


class EventFile:
    """One event file in a folder; every line is in it whole, or not at all, as in `log.jsonl`.

    Args:
        folder: gets the event file; older ones in it are replaced.
        lines: lines of `log.jsonl` that it begins with.
    """

    def __init__(self, folder: Path, lines: Iterable[str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        older = list(folder.glob("events.out.tfevents.*"))
        self.path = folder / f"events.out.tfevents.{time.time_ns():019d}.weakclip"
        with atomic_write(self.path) as file:
            _write(file, Event(wall_time=time.time(), file_version="brain.Event:2"))
            for line in lines:
                _write(file, _event(json.loads(line)))
        for path in older:
            path.unlink(missing_ok=True)

    def append(self, record: dict[str, Any]) -> None:
        """Add a line of `log.jsonl`: every number but `step` becomes a scalar of that step."""
        content = io.BytesIO()
        _write(content, _event(record))
        append_bytes(self.path, content.getvalue())


def open_event_file(log: Path, lines: Iterable[str]) -> EventFile | None:
    """The event file in `tensorboard/` beside a `log.jsonl`; None where the extra `tensorboard` is not installed."""
    installed = importlib.util.find_spec("tensorboard") is not None
    return EventFile(log.parent / FOLDER, lines) if installed else None


def _event(record: dict[str, Any]) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    numbers = {name: value for name, value in record.items() if name != "step" and isinstance(value, int | float)}
    values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    return Event(wall_time=time.time(), step=int(record["step"]), summary=Summary(value=values))


def _write(file: IO[bytes], event: Any) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    RecordWriter(file).write(event.SerializeToString())
