"""One way to work on many items: what is done is passed over, and making the next overlaps with finishing the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from weakclip.store.progress import track
from weakclip.store.threads import in_threads

Item = TypeVar("Item")
Made = TypeVar("Made")


def work_through(
    items: Sequence[Item],
    *,
    is_done: Callable[[Item], bool],
    make: Callable[[Sequence[Item]], Iterable[Made]],
    finish: Callable[[Made], None],
    description: str,
    shard: tuple[int, int] = (0, 1),
    bytes_of: Callable[[Made], int] | None = None,
) -> int:
    """Work on the items that are not done, under a progress bar.

    A kill loses the items in flight. The same call then goes on: `finish` writes what `is_done` asks for, last of all.

    Args:
        items: all items, done or not.
        is_done: whether the result of an item is there.
        make: from the items that are left to what `finish` takes, one at a time, in their order. It runs in the calling
            thread, where the accelerator's work belongs, and ahead of `finish` by a few items.
        finish: the rest of the work on one item, with its files. It runs in threads, on several items at once.
        description: shown before the progress bar.
        shard: `(i, n)`: only the items `i, i + n, i + 2 n, …`, where n processes share the work.
        bytes_of: what an item takes in memory between `make` and `finish`; see `in_threads`.

    Returns:
        How many items were worked on.

    >>> there = {2}
    >>> work_through([1, 2, 3], is_done=there.__contains__, make=iter, finish=there.add, description="numbers")
    2
    >>> there
    {1, 2, 3}
    """
    index, count = shard
    own = items[index::count]
    left = [item for item in own if not is_done(item)]
    if left:
        made = track(make(left), description, total=len(own), done=len(own) - len(left))
        for _ in in_threads(finish, made, bytes_of=bytes_of):
            pass
    return len(left)
