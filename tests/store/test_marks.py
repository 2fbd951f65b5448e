"""Laws of the marks: nothing that was said is lost, the last word on an image counts, and a torn line harms none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

import weakclip
from weakclip.errors import DataError
from weakclip.store.marks import Mark, MarkFile, _append, every_mark, now, read_marks

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1])}


def made(image: str, mark: str | None = "good", labels: tuple[str, ...] | None = None) -> Mark:
    return Mark(image=image, mark=mark, labels=labels, time=now())


def test_last_mark_on_an_image_counts(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "marks.jsonl")
    marks = [made("a"), made("b", "bad"), made("a", "relabel", ("cat", "ça")), made("b", None)]
    assert all(file.add(mark) for mark in marks)
    assert file.current() == {"a": marks[2], "b": marks[3]}
    assert read_marks(file.path) == (dict(file.current()), 0)
    assert len(file.path.read_text("utf-8").splitlines()) == 4


def test_no_file_is_no_marks(tmp_path: Path) -> None:
    assert MarkFile(tmp_path / "marks.jsonl").current() == {}
    assert not list(tmp_path.iterdir())


def test_mark_that_was_overtaken_is_not_made(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "marks.jsonl")
    first, second = made("a"), made("a", "bad")
    assert file.add(first, after="")
    assert not file.add(made("a"), after="")
    assert file.add(second, after=first.time)
    assert not file.add(made("a"), after=first.time)
    assert file.current() == {"a": second}


def test_torn_line_is_passed_over_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    file = MarkFile(path)
    file.add(made("a"))
    with path.open("a") as stream:
        stream.write('{"image": "b", "ma')
    file.add(made("c", "bad"))
    assert set(file.current()) == {"a", "c"}
    assert set(MarkFile(path).current()) == {"a", "c"}
    assert read_marks(path)[1] == 1


def test_marks_of_another_process_are_seen(tmp_path: Path) -> None:
    here, there = MarkFile(tmp_path / "marks.jsonl"), MarkFile(tmp_path / "marks.jsonl")
    here.add(made("a"))
    there.add(made("b"))
    here.add(made("c"))
    assert set(here.current()) == set(there.current()) == {"a", "b", "c"}


def test_threads_lose_no_marks(tmp_path: Path) -> None:
    file = MarkFile(tmp_path / "marks.jsonl")
    work = [threading.Thread(target=file.add, args=(made(f"image {number}"),)) for number in range(40)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(file.current()) == len(read_marks(file.path)[0]) == 40


WRITER = """
import sys
from pathlib import Path
from weakclip.store.marks import Mark, MarkFile
file = MarkFile(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    file.add(Mark(image=f"{sys.argv[2]} {number}", mark="good"))
    print(number, flush=True)
"""


RACER = """
import sys
from pathlib import Path
from weakclip.store.marks import Mark, MarkFile
file, made = MarkFile(Path(sys.argv[1])), 0
while made < 20:
    last = file.current().get("x")
    after = last.time if last else ""
    made += file.add(Mark(image="x", mark="good", time=str(int(after or 0) + 1), reviewer=sys.argv[2]), after=after)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def test_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    process = writer(path, "a", 1_000_000)
    assert process.stdout is not None
    answered = [process.stdout.readline().strip() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert {f"a {number}" for number in answered} <= set(read_marks(path)[0])


def test_several_processes_lose_and_tear_no_marks(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text('{"image": "torn", "ma')
    for process in [writer(path, name, 50) for name in "abc"]:
        process.communicate()
    marks, torn = read_marks(path)
    assert (len(marks), torn) == (150, 1)


def test_of_processes_that_overtake_each_other_one_makes_the_mark(tmp_path: Path) -> None:
    """Each adds a mark on one image only where it saw the last one; none is lost in between."""
    path = tmp_path / "marks.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", RACER, str(path), name], env=ENVIRONMENT) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    marks, torn = every_mark(path)
    assert torn == 0 and [mark.time for mark in marks] == [str(number) for number in range(1, 61)]


def test_marks_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text('{"image": "a", "mark": "bad", "labels": null, "time": "t", "masks": "k", "truth_seen": true}\n')
    assert read_marks(path)[0] == {"a": Mark(image="a", mark="bad", time="t", masks="k", truth_seen=True)}
    MarkFile(path).add(Mark(image="a", mark="good", time="u", reviewer="änna"))
    assert [mark.reviewer for mark in every_mark(path)[0]] == ["", "änna"]


def test_a_line_that_did_not_fit_leaves_nothing(tmp_path: Path) -> None:
    class Short(FileIO):
        """A disk that is full after five bytes."""

        room = 5

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written, self.room = super().write(bytes(data)[: self.room]), 0
            return written

    path = tmp_path / "marks.jsonl"
    MarkFile(path).add(made("a"))
    before = path.read_bytes()
    with Short(path, "ab+") as file, pytest.raises(OSError, match="No space left"):
        _append(file, path, made("b"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 1: no mark"),
        ('{"mark": "good"}', "line 1: no mark"),
        ('{"image": "a", "mark": "awful"}', "line 1: mark 'awful'; expected good, verified, bad, relabel or null"),
        ('{"image": "a", "mark": "relabel", "labels": "cat"}', "line 1: labels 'cat'; expected a list"),
        ('{"image": "a", "labels": [1]}', r"line 1: labels \[1\]; expected a list"),
    ],
)
def test_line_that_is_no_mark_is_one_clear_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_marks(path)
    assert str(path) in str(error.value)


def test_failed_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        MarkFile(tmp_path / "marks.jsonl").add(made("a"))
