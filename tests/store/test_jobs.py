"""Laws of work on many items, held once for all who use it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from weakclip.errors import BrokenFileError, ConfigError, RunError
from weakclip.store import jobs
from weakclip.store.files import atomic_write
from weakclip.store.jobs import Steps, work_through
from weakclip.store.lines import LineLog, read_lines
from weakclip.store.share import Merge, Shard, sharing


@pytest.fixture
def four_threads() -> Iterator[None]:
    """As many of torch's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


NAMES = [f"image{number}" for number in range(12)]


class Work:
    """Writes one file an item; raises when the calls are used up."""

    def __init__(self, folder: Path, *, calls: int = 1000) -> None:
        self.folder, self.calls, self.made = folder, calls, list[str]()
        self.finished, self.lock = list[str](), threading.Lock()

    def make(self, names: Sequence[str]) -> Iterator[str]:
        for name in names:
            self.made.append(name)
            yield name

    def finish(self, name: str) -> None:
        with self.lock:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
            self.finished.append(name)
        with atomic_write(self.folder / name, "w") as file:
            file.write(name)

    def run(self) -> int:
        return work_through(
            NAMES,
            is_done=lambda name: (self.folder / name).is_file(),
            make=self.make,
            finish=self.finish,
            description="work",
        )


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("calls", [0, 1, 5, 11])
def test_stopped_work_goes_on_and_does_nothing_twice(tmp_path: Path, calls: int) -> None:
    first, second = Work(tmp_path, calls=calls), Work(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert len(written(tmp_path)) == calls
    assert second.run() == len(NAMES) - calls
    assert sorted(first.finished + second.finished) == sorted(NAMES)
    assert written(tmp_path) == sorted(NAMES)


def test_finished_work_makes_nothing(tmp_path: Path) -> None:
    Work(tmp_path).run()
    again = Work(tmp_path)
    assert again.run() == 0
    assert again.made == []


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_shards_share_the_work(tmp_path: Path, count: int) -> None:
    parts = [Work(tmp_path) for _ in range(count)]
    sizes = []
    for index, part in enumerate(parts):
        with sharing(Shard(index, count)):
            sizes.append(part.run())
    assert sum(sizes) == len(NAMES)
    assert max(sizes) - min(sizes) <= 1
    assert sorted(name for part in parts for name in part.finished) == sorted(NAMES)


def test_a_merge_names_what_is_missing_and_makes_nothing(tmp_path: Path) -> None:
    work = Work(tmp_path)
    for index in (0, 2):
        with sharing(Shard(index, 3)):
            work.run()
    (tmp_path / "image2").unlink()
    again = Work(tmp_path)
    said = r"work: .*of shard 1/3 4 \(image1, image4, image7, …\); of shard 2/3 1 \(image2\); run these shards again"
    with pytest.raises(RunError, match=said), sharing(Merge(shards=3)):
        again.run()
    assert again.made == []
    work.run()
    with sharing(Merge(shards=3)):
        assert again.run() == 0


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "1/0", "/2"])
def test_what_is_no_shard_is_told_how_shards_are_counted(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--shard: .*counted from 0"):
        Shard.read(text, tmp_path)


def test_lines_of_shards_are_one_file_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for index in range(3):
        with sharing(Shard(index, 3)):
            log = LineLog(path)
        for name in NAMES[index::3]:
            log.add({"name": name, "value": index})
    assert not path.exists()
    LineLog(path).finish(NAMES)
    assert [entry["value"] for entry in read_lines(path)] == [0, 1, 2] * 4
    assert [each.name for each in tmp_path.iterdir()] == ["log.jsonl"]


def test_making_is_in_the_calling_thread_and_never_far_ahead(tmp_path: Path) -> None:
    ahead, most, lock, here = 0, 0, threading.Lock(), threading.get_ident()

    def make(names: Sequence[str]) -> Iterator[str]:
        nonlocal ahead, most
        for name in names:
            assert threading.get_ident() == here
            with lock:
                ahead += 1
                most = max(most, ahead)
            yield name

    def finish(name: str) -> None:
        nonlocal ahead
        with lock:
            ahead -= 1

    many = [str(number) for number in range(500)]
    assert work_through(many, is_done=lambda _: False, make=make, finish=finish, description="many") == 500
    assert most < 100


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("four_threads")
def test_threads_read_ahead_and_an_error_waits_for_its_turn(device: str) -> None:
    here, readers, made, finished = threading.get_ident(), set[int](), list[int](), list[int]()

    def read(number: int) -> int:
        readers.add(threading.get_ident())
        if number == 7:
            raise BrokenFileError("torn")
        return number

    def make(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            assert (threading.get_ident() == here) == (device == "cuda")
            made.append(number)
            yield number

    steps = Steps(read, make, finished.append, device)
    with pytest.raises(BrokenFileError, match="torn"):
        work_through(
            range(20), is_done=lambda _: False, make=steps.from_items, finish=steps.finish, description="numbers"
        )
    assert sorted(made) == sorted(finished) == list(range(7)) and here not in readers


@pytest.mark.usefixtures("four_threads")
def test_on_a_cpu_several_are_made_at_once_with_a_part_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other. Those that belong together come together, and what is learned is learned first."""
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    meet, calls = threading.Barrier(2, timeout=60), list[tuple[list[int], int]]()

    def make(numbers: Iterable[int]) -> Iterator[int]:
        found = list(numbers)
        calls.append((found, torch.get_num_threads()))
        if found:
            meet.wait()
        yield from reversed(found)

    steps = Steps(int, make, print, "cpu", together=lambda number: number // 3)
    assert list(steps.from_items([0, 1, 2, 4, 6, 7, 8, 9])) == [2, 1, 0, 4, 8, 7, 6, 9]
    assert calls[0] == ([], 4)
    assert sorted(calls[1:]) == [([0, 1, 2], 2), ([4], 2), ([6, 7, 8], 2), ([9], 2)]


@pytest.mark.usefixtures("four_threads")
def test_an_accelerator_makes_one_after_the_other() -> None:
    calls = list[list[int]]()

    def make(numbers: Iterable[int]) -> Iterator[int]:
        calls.append(list(numbers))
        yield from calls[-1]

    steps = Steps(int, make, print, "cuda")
    assert list(steps.from_items([1, 2, 3])) == [1, 2, 3] and calls == [[1, 2, 3]]


def test_lines_are_ordered_in_the_end_and_the_last_of_two_counts(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "log.jsonl")
    for name in reversed(NAMES):
        log.add({"name": name, "value": 1})
    log.add({"name": NAMES[3], "value": 2})
    log.finish(NAMES)
    assert [entry["name"] for entry in read_lines(log.path)] == NAMES
    assert [entry["value"] for entry in read_lines(log.path)] == [1, 1, 1, 2, *[1] * 8]


def test_lines_of_many_threads_end_in_their_order(tmp_path: Path) -> None:
    names = [f"{index:03}" for index in range(80)]
    log = LineLog(tmp_path / "deep" / "log.jsonl")
    threads = [
        threading.Thread(target=lambda part=part: [log.add({"name": name}) for name in names[part::4]])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.finish(names)
    assert [entry["name"] for entry in read_lines(log.path)] == names
    assert log.path.read_bytes().count(b"\n") == len(names)


@pytest.mark.parametrize("cut", range(2, 24))
def test_a_torn_line_is_passed_over_and_the_next_one_is_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.jsonl"
    LineLog(path).add({"name": "first", "value": 1})
    whole = path.read_bytes()
    LineLog(path).add({"name": "second", "value": 2})
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:-cut])
    LineLog(path).add({"name": "third", "value": 3})
    assert [entry["name"] for entry in read_lines(path)] == ["first", "third"]
    assert "second" not in LineLog(path)
