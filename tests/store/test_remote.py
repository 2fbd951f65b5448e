"""Laws of files at a URL: like those of a folder, asked for again when the network fails, and no password is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from weakclip.errors import BrokenFileError, ConfigError, DataError, RemoteError
from weakclip.store import remote, trees
from weakclip.store.remote import check_url, file_at, folder_at
from weakclip.store.trees import AnyPath, StoredPath, stamp_of, walk

FILES = {"a.png": b"a" * 9, "deep/b.png": b"bb", "deep/in side/\u00fc.png": b"c", "labels.csv": b"image\r\n"}
ROOT = "memory://bucket/photos"


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, StoredPath]]:
    """The same files in a folder and at a URL."""
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    memory = fsspec.filesystem("memory")
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        memory.pipe(f"/bucket/photos/{name}", content)
    folder = folder_at(ROOT)
    assert isinstance(folder, StoredPath)
    yield tmp_path, folder
    memory.store.clear()


def failing(times: int, error: Exception | bytes) -> Callable[..., bytes]:
    """`cat_file` that fails, or comes short, so often before it works."""
    memory, left = fsspec.filesystem("memory"), [times]
    whole = type(memory).cat_file

    def cat_file(self: Any, path: str, **limits: int) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            return whole(self, path, **limits)
        if isinstance(error, bytes):
            return error
        raise error

    return cat_file


def test_a_folder_at_a_url_is_walked_and_read_like_one_on_the_disk(both: tuple[Path, StoredPath]) -> None:
    def seen(folder: AnyPath) -> list[Any]:
        found = [(here.parts[len(folder.parts) :], sorted(dirs), sorted(files)) for here, dirs, files in walk(folder)]
        names = sorted(path.name for path in folder.iterdir())
        return [sorted(found), names, [(folder / name).read_bytes() for name in FILES]]

    local, there = both
    assert seen(local) == seen(there)
    assert (there / "deep").is_dir() and not (there / "deep").is_file() and not (there / "dee").exists()
    assert (there / "labels.csv").open(encoding="utf-8", newline="").read() == "image\r\n"
    for folder in both:
        assert stamp_of(folder / "a.png").size == 9
        with pytest.raises(FileNotFoundError):
            stamp_of(folder / "none.png")


def test_a_folder_that_is_taken_out_is_not_walked(both: tuple[Path, StoredPath]) -> None:
    for folder in both:
        for _, folders, _ in walk(folder):
            assert len(folders) <= 1
            folders.clear()
        assert len(list(walk(folder))) == 3


def test_a_changed_file_has_another_stamp(both: tuple[Path, StoredPath]) -> None:
    before = stamp_of(both[1] / "a.png")
    fsspec.filesystem("memory").pipe("/bucket/photos/a.png", b"A" * 9)
    assert stamp_of(folder_at(ROOT) / "a.png") != before == stamp_of(both[1] / "a.png")


@pytest.mark.parametrize("error", [OSError("connection reset"), b"short"])
def test_what_fails_on_its_way_is_asked_for_again(
    both: tuple[Path, StoredPath], error: Exception | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(kind, "cat_file", failing(2, error))
    assert (both[1] / "a.png").read_bytes() == FILES["a.png"]
    monkeypatch.setattr(kind, "cat_file", failing(3, error))
    with pytest.raises(RemoteError, match=f"^{ROOT}/labels.csv: cannot be read .*; tried 3 times; see to the network"):
        (both[1] / "labels.csv").read_bytes()


def test_a_refusal_is_final_and_shows_no_signed_address(
    both: tuple[Path, StoredPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = PermissionError("403 for https://host/a?X-Amz-Signature=123")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", failing(1, refusal))
    with pytest.raises(RemoteError, match=r"refuses to be read .*; log in as for the store's own tools") as caught:
        (both[1] / "a.png").read_bytes()
    assert "123" not in str(caught.value)


def test_a_chained_url_keeps_copies_and_is_called_like_the_last(both: tuple[Path, StoredPath]) -> None:
    there = folder_at(f"simplecache::{ROOT}")
    assert there.parts == both[1].parts
    assert (there / "a.png").read_bytes() == FILES["a.png"]
    fsspec.filesystem("memory").rm("/bucket/photos/a.png")
    remote._kept.cache_clear()
    assert (there / "a.png").read_bytes() == FILES["a.png"]


def test_a_large_file_comes_in_pieces(both: tuple[Path, StoredPath], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "STREAMED", 100)
    monkeypatch.setattr(trees, "PIECE", 7)
    content = os.urandom(1000)
    fsspec.filesystem("memory").pipe("/bucket/photos/big", content)
    with (folder_at(ROOT) / "big").open("rb") as file:
        assert file.read(10) == content[:10]
        assert file.seek(-5, os.SEEK_END) == 995
        assert file.read() == content[-5:]


def test_what_is_not_there_is_one_line(both: tuple[Path, StoredPath]) -> None:
    with pytest.raises(DataError, match=r"^memory://nowhere: no such bucket or folder, or nothing in it; correct the"):
        folder_at("memory://nowhere").exists()
    with pytest.raises(BrokenFileError, match=f"^{ROOT}/none.png: no such file; put it back"):
        (both[1] / "none.png").read_bytes()
    assert not file_at(f"{ROOT}/none.csv").is_file()
    assert file_at(f"{ROOT}/labels.csv").read_bytes() == FILES["labels.csv"]
    with pytest.raises(ConfigError, match=r"^https://host/photos: web servers do not list folders"):
        folder_at("https://host/photos").is_dir()
    with pytest.raises(RemoteError, match=r"^ftp://127\.0\.0\.1:9/x: cannot be reached \(.*\); correct the address"):
        _ = folder_at("ftp://127.0.0.1:9/x").is_dir()
    with pytest.raises(ConfigError, match=r"^nonsense://x: Protocol not known"):
        folder_at("nonsense://x").is_dir()


@pytest.mark.parametrize(
    "url", ["https://me:pass@host/labels.csv", "https://host/a.csv?X-Amz-Signature=pass", "s3://b/a?sas_token=pass"]
)
def test_a_setting_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"root: the address .* holds a password or a signature") as caught:
        check_url(url, "root")
    assert "pass@" not in str(caught.value) and "=pass" not in str(caught.value)
    check_url("https://host/labels.csv?version=3", "root")
