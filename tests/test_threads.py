"""Results come in order, errors in their turn, and nothing runs far ahead."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from weakclip.threads import in_threads


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
        assert taken - count <= 2 * (os.cpu_count() or 1) + 1


def test_an_error_comes_when_its_turn_has_come() -> None:
    results = in_threads(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
