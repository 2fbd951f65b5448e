"""Progress without a terminal: a line a minute."""

from __future__ import annotations

import logging
import time

import pytest

from weakclip.store.progress import track


def test_a_line_a_minute_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "weakclip"):
        for _ in track(range(10), "masks", total=14, done=4):
            clock[0] += 25.0
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "masks: 7 of 14, 0.04/s, 0:02:55 left",
        "masks: 10 of 14, 0.04/s, 0:01:40 left",
        "masks: 13 of 14, 0.04/s, 0:00:25 left",
    ]


def test_long_work_says_after_ten_items_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "weakclip"):
        for _ in track(range(200), "training", total=200):
            clock[0] += 0.5
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["training: 10 of 200, 2/s, 0:01:35 left", "training: 130 of 200, 2/s, 0:00:35 left"]


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "weakclip"):
        assert list(track("abc", "letters", total=3)) == ["a", "b", "c"]
    assert not caplog.records
