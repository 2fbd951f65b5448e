"""One way to work on many items: what is done is passed over, and making the next overlaps with finishing the last."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from weakclip.store.events import Meter
from weakclip.store.progress import track
from weakclip.store.share import current
from weakclip.store.threads import ROOM, in_threads

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")

READERS = 2
"""Threads that read ahead of the network: one on a GPU takes less time for an image than one reader."""


AT_ONCE = 8
"""Items that are made at once at most, each in a thread of its own: each takes memory."""


@dataclass(frozen=True)
class Steps(Generic[Item, Read, Made]):
    """The three parts of some work. `work_through` takes the first two as one.

    Args:
        read: from an item to what `make` takes: its file, decoded and prepared on the cores.
        make: from what has been read, in the order of the items, to what `finish` takes, one at a time.
        finish: the rest of the work on one item, with its files.
        device: where `make` works.
        readers: threads that read ahead of `make`; None for one a core.
        in_turn: whether `make` keeps something of an item that another item would find. Otherwise several threads call
            it at once on a CPU.
        together: equal for those that have been read in a row and that one call of `make` must get; None where it may
            get them one by one.
        bytes_of: about what `make` takes in memory for one that has been read; see `in_threads`.
    """

    read: Callable[[Item], Read]
    make: Callable[[Iterable[Read]], Iterable[Made]]
    finish: Callable[[Made], None]
    device: str | torch.device
    readers: int | None = READERS
    in_turn: bool = False
    together: Callable[[Read], object] | None = None
    bytes_of: Callable[[Read], int] | None = None

    def from_items(self, items: Sequence[Item]) -> Iterator[Made]:
        """From several items to what `finish` takes: threads read ahead of `make`.

        On a CPU several calls of `make` run at once, with fewer of torch's threads each: cores that share the products
        of one image wait for each other at every one of them. The first items tell how many have room.
        """
        read = in_threads(self.read, items, threads=self.readers)
        if self.in_turn or made_at_once(self.device)[0] == 1:
            yield from self.make(read)
            return
        yield from self.make(())  # what is learned from all items is learned first, by all threads
        groups = self._groups(read)
        for first in itertools.islice(groups, 1):
            at_once, threads = made_at_once(self.device, self._bytes(first))
            together = itertools.chain([first], groups)
            with torch_threads(threads):
                made = in_threads(self._made, together, bytes_of=self._bytes, threads=at_once, finishes=False)
                yield from itertools.chain.from_iterable(made)

    def _groups(self, read: Iterable[Read]) -> Iterator[list[Read]]:
        if self.together is None:
            return ([each] for each in read)
        return (list(group) for _, group in itertools.groupby(read, self.together))

    def _made(self, group: list[Read]) -> list[Made]:
        return list(self.make(group))

    def _bytes(self, group: list[Read]) -> int:
        return sum(map(self.bytes_of, group)) if self.bytes_of else 0


def made_at_once(device: str | torch.device, size: int = 0) -> tuple[int, int]:
    """How many items are made at once on a device, and how many of torch's threads each of them gets.

    Args:
        device: where they are made.
        size: bytes that one of them takes; 0 where that is not known.

    >>> made_at_once("cuda")[0], made_at_once("cpu", size=ROOM + 1)[0]
    (1, 1)
    """
    import torch

    threads = torch.get_num_threads()
    most = min(AT_ONCE, max(1, ROOM // size)) if size else AT_ONCE
    if torch.device(device).type != "cpu":
        most = 1
    each = -(-threads // most)
    return threads // each, each


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it, this thread and those that are started have this number of torch's own each."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Again = Callable[[str], Steps[Any, Any, Any]]
"""Makes the steps of some work once more in another process, from the torch device that process has; can be pickled."""

Engine = Callable[[Sequence[Any], Again], Iterator[object]]
"""Does the work on some items in other processes, and yields something for each that is finished."""

_engines = list[Engine]()


@contextlib.contextmanager
def working_by(engine: Engine) -> Iterator[None]:
    """Within it, an engine does all work whose steps other processes can make; for the main thread."""
    _engines.append(engine)
    try:
        yield
    finally:
        _engines.remove(engine)


def work_through(
    items: Sequence[Item],
    *,
    is_done: Callable[[Item], bool],
    make: Callable[[Sequence[Item]], Iterable[Made]],
    finish: Callable[[Made], None],
    description: str,
    name_of: Callable[[Item], str] = str,
    bytes_of: Callable[[Made], int] | None = None,
    again: Again | None = None,
) -> int:
    """Work on the items of this process's share (`weakclip.store.share`) that are not done, under a progress bar.

    A kill loses the items in flight. The same call then goes on: `finish` writes what `is_done` asks for, last of all.
    Of several processes that work together each returns when all have finished.

    Args:
        items: all items, done or not, in the same order in every process.
        is_done: whether the result of an item is there.
        make: from the items that are left to what `finish` takes, one at a time, in their order. It runs in the calling
            thread, where the accelerator's work belongs, and ahead of `finish` by a few items. Where any process has
            items left, it is called in all that work together.
        finish: the rest of the work on one item, with its files. It runs in threads, on several items at once.
        description: shown before the progress bar.
        name_of: how an error names an item.
        bytes_of: what an item takes in memory between `make` and `finish`; see `in_threads`.
        again: makes `make` and `finish` in other processes, for an engine (`working_by`). Then `make` is called here
            without items: what is learned from all of them is learned before the others begin.

    Returns:
        How many items this process worked on.

    >>> there = {2}
    >>> work_through([1, 2, 3], is_done=there.__contains__, make=iter, finish=there.add, description="numbers")
    2
    >>> there
    {1, 2, 3}
    """
    share = current()
    own = share.positions(len(items))
    left = [position for position in own if not is_done(items[position])]
    share.check([(position, name_of(items[position])) for position in left], description)
    if share.any(bool(left)):
        todo, meter = [items[position] for position in left], Meter(description)
        finished: Iterator[object]
        if again is None or not _engines:

            def counted(item: Made) -> None:
                finish(item)
                meter.finished()

            finished = in_threads(counted, meter.taken(make(todo)), bytes_of=bytes_of)
        else:
            list(make([]))
            finished = _engines[-1](todo, again)
        if share.is_main:
            finished = track(finished, description, total=len(own), done=len(own) - len(left))
        for _ in finished:
            pass
        meter.tell()
    share.wait()
    return len(left)
