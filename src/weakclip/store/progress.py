"""Progress of long work, with a rate and the time left: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger("weakclip")

Item = TypeVar("Item")

LINE_EVERY = 60.0
"""Seconds from line to line where there is no terminal."""
FIRST_AFTER = 10
"""Items after which the first line comes, where more than `LINE_EVERY` is left."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.1f}/s" if rate else "–/s")


def track(items: Iterable[Item], description: str, *, total: int, done: int = 0) -> Iterator[Item]:
    """Yield `items` under a progress bar on standard error; without a terminal, a line a minute goes to the log.

    Args:
        items: what is left to do.
        description: what is being done, shown before the bar.
        total: how many there are in all.
        done: how many of them were done by an earlier run.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield from _logged(items, description, total, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)


def _logged(items: Iterable[Item], description: str, total: int, done: int) -> Iterator[Item]:
    started = said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        seconds = (total - done - count) * (now - started) / count
        if now - said >= LINE_EVERY or (count == FIRST_AFTER and said == started and seconds > LINE_EVERY):
            said, rate, left = now, count / (now - started), timedelta(seconds=round(seconds))
            logger.info("%s: %d of %d, %.2g/s, %s left", description, done + count, total, rate, left)
