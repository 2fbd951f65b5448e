"""Work on many items in threads; only a few items are in memory at once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

ROOM = 2**30
"""Bytes that the items ahead may take, where they say their size."""


def usable_cores() -> int:
    """How many cores this process may use: under `taskset` or in a job of Slurm, fewer than the machine has.

    Processes of one machine that torch's launcher started (`LOCAL_WORLD_SIZE`) share its cores.

    >>> 1 <= usable_cores() <= os.cpu_count()
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    companions = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // max(1, int(companions))) if companions.isdecimal() else cores


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    bytes_of: Callable[[Item], int] | None = None,
    threads: int | None = None,
    finishes: bool = True,
) -> Iterator[Result]:
    """The results of `work` on each item, in order, while threads work ahead.

    Args:
        work: what is done; it should leave the interpreter's lock free for most of its time.
        items: taken one at a time, at most twice as many ahead as there are threads.
        bytes_of: what an item takes in memory; no further one is taken then while those ahead take more than `ROOM`.
        threads: how many; None for one a core.
        finishes: whether work that waits for a thread is done, too, when nobody asks for further results: after Ctrl-C,
            or an error.

    Raises:
        Exception: what `work` raised on an item, or what taking an item raised, when its turn has come.

    >>> list(in_threads(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    threads = threads or usable_cores()
    pending: deque[tuple[Future[Result], int]] = deque()
    taken = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for submitted in _submitted(pool, work, items, bytes_of):
            pending.append(submitted)
            taken += submitted[1]
            while len(pending) > 2 * threads or (taken > ROOM and pending):
                future, size = pending.popleft()
                yield future.result()
                taken -= size
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=not finishes)


def _submitted(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    bytes_of: Callable[[Item], int] | None,
) -> Iterator[tuple[Future[Result], int]]:
    """The work on each item and what the item takes in memory; an error of the items themselves comes as the last."""
    try:
        for item in items:
            size = bytes_of(item) if bytes_of else 0
            submitted = pool.submit(work, item)
            del item  # else it stays while the next one is made
            yield submitted, size
    except Exception as error:
        broken = Future[Result]()
        broken.set_exception(error)
        yield broken, 0


def once(make: Callable[[], Result]) -> Callable[[], Result]:
    """The function that makes its result when it is first asked, and the others that ask wait for it.

    >>> numbers = once(iter([1, 2]).__next__)
    >>> numbers(), numbers()
    (1, 1)
    """
    lock, made = threading.RLock(), cache(make)

    def asked() -> Result:
        with lock:
            return made()

    return asked
