"""Laws of a run's events: who is slow is named, the queue is counted, and nothing is written outside of a stage."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from weakclip.store import events
from weakclip.store.events import stage_events
from weakclip.store.jobs import work_through
from weakclip.store.share import Shard, sharing


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def slowly(seconds: float) -> Any:
    def same(item: Any) -> Any:
        time.sleep(seconds)
        return item

    return same


def work(making: float, finishing: float, items: int = 12) -> None:
    make, finish = slowly(making), slowly(finishing)
    work_through(
        range(items), is_done=lambda _: False, make=lambda left: map(make, left), finish=finish, description="masks"
    )


def test_the_slow_side_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakclip.store.threads.usable_cores", lambda: 2)
    path = tmp_path / "log.jsonl"
    with stage_events(path, "pseudo_masks"):
        work(0.02, 0.0)
        work(0.0, 0.03)
    begin, network, crf, end = lines(path)
    assert (begin["event"], end["event"], begin["stage"]) == ("begin", "end", "pseudo_masks") and end["seconds"] > 0
    assert network["event"] == crf["event"] == "throughput" and network["work"] == "masks" and network["items"] == 12
    assert network["waits_for"] == "making" and network["making_share"] > 0.5
    assert crf["waits_for"] == "finishing" and crf["queue"] > network["queue"]
    assert network["items_per_second"] <= 50 and crf["items_per_second"] <= 2 / 0.03


def test_a_line_comes_while_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LINE_EVERY", 0.0)
    with stage_events(tmp_path / "log.jsonl", "seeds"):
        work(0.001, 0.0, items=5)
    found = lines(tmp_path / "log.jsonl")
    assert [each["event"] for each in found] == ["begin", *["throughput"] * 6, "end"]
    assert found[-2]["items"] == 5


def test_a_shard_says_which_and_a_stop_is_noted(tmp_path: Path) -> None:
    def stop() -> None:
        with sharing(Shard(1, 4, tmp_path)), stage_events(tmp_path / "log.jsonl", "seeds"):
            work(0.0, 0.0, items=0)
            raise KeyError("x")

    with pytest.raises(KeyError):
        stop()
    begin, stopped = lines(tmp_path / "log.jsonl")
    assert begin["share"] == "1/4" and (stopped["event"], stopped["error"]) == ("stopped", "KeyError")


def test_without_a_stage_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work(0.0, 0.0)
    assert not any(tmp_path.iterdir())
