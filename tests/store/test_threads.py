"""Results come in order, errors in their turn, and nothing runs far ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from weakclip.store.threads import ROOM, in_threads, usable_cores


def test_results_keep_the_order_of_the_items() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(in_threads(slow_at_first, range(50))) == [item * item for item in range(50)]
    assert list(in_threads(slow_at_first, ())) == []


def test_few_items_are_taken_ahead() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    for count, _ in enumerate(in_threads(abs, source()), 1):
        assert taken - count <= 2 * usable_cores() + 1


def test_large_items_are_taken_one_by_one() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for item in (10, ROOM // 4, ROOM // 4, ROOM, 2 * ROOM, 3 * ROOM, 10, 10):
            taken += 1
            yield item

    seen = [(result, taken) for result in in_threads(abs, source(), bytes_of=abs)]
    ahead = {result: count - position for position, (result, count) in enumerate(seen, 1)}
    assert len(seen) == 8 and ahead[2 * ROOM] == ahead[3 * ROOM] == 0


def test_an_error_comes_when_its_turn_has_come() -> None:
    results = in_threads(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
