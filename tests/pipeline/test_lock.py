"""Laws of the lock: one writer in a folder, whoever died in it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from folders import dead_process

from weakclip.config import load_config
from weakclip.errors import RunError
from weakclip.store.lock import LOCK, FolderInUseError, FolderLock
from weakclip.study import study_crf, study_prompts


def test_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FolderLock(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(FolderInUseError, match=rf"process {os.getpid()} on {socket.gethostname()} works here"):
            FolderLock(folder).__enter__()
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with FolderLock(folder):
        pass


def test_lock_makes_no_folder_that_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path / "a" / "run"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "there").mkdir()
    with FolderLock(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RunError, match="is a file"):
        FolderLock(tmp_path / "run").__enter__()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "host": "other", "since": "then"}'])
def test_what_a_dead_process_left_is_taken_over(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(content)
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    lock = FolderLock(tmp_path).__enter__()
    child = os.fork()
    if not child:
        os.write(writing, b"here")
        signal.pause()
    os.read(reading, 4)
    os.close(lock._handle)  # as the system does when the parent is killed
    try:
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks, as some network disks are."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_of_the_system_the_file_counts(tmp_path: Path) -> None:
    def left_by(pid: int, host: str) -> None:
        (tmp_path / LOCK).write_text(json.dumps({"pid": pid, "host": host, "since": "then"}))

    left_by(dead_process(), socket.gethostname())
    with FolderLock(tmp_path), pytest.raises(FolderInUseError, match=f"if that process is no more, remove .*{LOCK}"):
        FolderLock(tmp_path).__enter__()
    left_by(os.getppid(), socket.gethostname())
    with pytest.raises(FolderInUseError, match=rf"process {os.getppid()} on .* works here since then"):
        FolderLock(tmp_path).__enter__()
    left_by(dead_process(), "elsewhere")
    with pytest.raises(FolderInUseError, match=r"on elsewhere works here since then; .* remove"):
        FolderLock(tmp_path).__enter__()


def test_studies_hold_their_folder_too(config_file: Path, tmp_path: Path) -> None:
    config: Any = load_config(config_file)
    with FolderLock(tmp_path / "study"):
        with pytest.raises(FolderInUseError, match="study: process"):
            study_prompts(config, tmp_path / "study", lengths=(1,), seeds=1)
        (tmp_path / "probs").mkdir()
        with pytest.raises(FolderInUseError, match="study: process"):
            study_crf(config, tmp_path / "study", probs=tmp_path / "probs")
