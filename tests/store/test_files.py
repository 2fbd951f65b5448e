"""Laws of writing: whole or not at all, and one line about what the disk says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import dead_process

from weakclip.errors import ConfigError, StorageError, WeakCLIPError
from weakclip.store.files import (
    append_json,
    atomic_write,
    process_lives,
    remove_leftovers,
    write_json,
    writing,
)
from weakclip.store.lock import FolderLock
from weakclip.store.paths import check_target


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file of this process, not even of pytest, may grow beyond 100 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    with atomic_write(path, "w") as file:
        file.write("old")
    with (
        pytest.raises(StorageError, match=r"note\.txt: cannot be written \(File too large\)"),
        small_files(),
        atomic_write(path) as file,
    ):
        file.write(b"x" * 1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]
    assert path.read_text() == "old"


def test_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_json(path, {"a": "x" * 60})
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"log\.jsonl: cannot be written \(File too large\)"), small_files():
        append_json(path, {"a": "x" * 60})
    assert path.read_bytes() == before


def test_torn_line_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_json(path, {"name": "ä"})
    with path.open("a") as file:
        file.write('{"na')
    append_json(path, {"name": "b"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == ['{"name": "ä"}', '{"na', '{"name": "b"}']
    assert json.loads(lines[2]) == {"name": "b"}


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EROFS, "mount the disk for writing"),
        (errno.EACCES, "chmod"),
        (errno.ENAMETOOLONG, "choose another place"),
    ],
)
def test_every_refusal_names_the_file_and_the_mend(number: int, mend: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=mend) as caught, writing(tmp_path / "mask.png"):
        raise OSError(number, os.strerror(number))
    error = caught.value
    assert str(error).startswith(f"{tmp_path / 'mask.png'}: cannot be written ({os.strerror(number)})")
    assert isinstance(error, WeakCLIPError) and isinstance(error, OSError)
    assert (error.errno, error.strerror) == (number, os.strerror(number))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_folder_in_the_place_of_the_file_and_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "note.txt"):
        with pytest.raises(StorageError, match="cannot be written"), atomic_write(path, "w") as file:
            file.write("x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_relative_paths_are_refused_in_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for path in ("folder", "."):
        with pytest.raises(StorageError, match="cannot be written"):
            write_json(path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("url", ["s3://bucket/masks/a.png", "memory:/masks/a.png"])
def test_no_folder_is_made_of_a_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = r"^(s3|memory):.*: a URL found, a file or folder of this machine expected; give a path"
    with pytest.raises(ConfigError, match=said), FolderLock(Path(url).parent):
        pass
    with pytest.raises(ConfigError, match=said):
        write_json(url, {})
    assert not list(tmp_path.iterdir())
    write_json("a:b.json", {})


def test_a_target_is_looked_at_before_the_work_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path, tmp_path / "file/below.json"):
        with pytest.raises(StorageError, match=f"^{wrong}: cannot be written"):
            check_target(wrong)
    for right in (tmp_path / "file", tmp_path / "new/rates.json"):
        check_target(right)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new"]


def test_errors_about_other_files_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a" / "copy") as file:
        file.write((tmp_path / "no such" / "source").read_bytes())


def test_only_the_temporary_files_of_the_dead_are_leftovers(tmp_path: Path) -> None:
    dead = dead_process()
    assert process_lives(os.getppid()) and not process_lives(dead)
    kept = [".bashrc", ".x.tmp.png", f".a.{os.getppid()}.x1.tmp", "plain.tmp"]
    swept = [f".a.{dead}.x1.tmp", f".a.png.{os.getpid()}.x1.tmp", f"deep/.b.{dead}.x_2.tmp"]
    for name in (*kept, *swept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(kept)
