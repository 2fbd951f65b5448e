"""Ctrl-C and SIGTERM during long work: finish the step, save, then go."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While open, the first SIGINT or SIGTERM is only noted; a second one acts at once.

    Outside the main thread, where Python allows no signal handlers, nothing is caught. What was noted and not acted on
    is acted on when it is closed without an error: a signal may come after the last look at `received`.

    >>> with StopRequest() as stop:
    ...     stop.received is None
    True
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.received is not None and kind is None:
            self.leave()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.leave()
        self.received = number

    def leave(self) -> None:
        """Act on what was received.

        Raises:
            KeyboardInterrupt: on SIGINT.
            SystemExit: on SIGTERM, with the shell's code 143.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


def ignore_stop_signals(worker: int) -> None:
    """For data workers: signals reach the whole process group, but only the main process decides when to stop.

    Args:
        worker: number of the worker, given by torch's `DataLoader` and not needed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
