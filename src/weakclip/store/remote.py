"""Files at a URL that fsspec reads: `s3://`, `gs://`, `https://`, ….

One listing gives the names, sizes and versions of all files, so that nothing is asked for a second time. Who may read
is never part of a URL: fsspec takes it from where the store's own tools do (environment variables, `~/.aws`, `gcloud
auth`), and nothing of it is written down.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from weakclip.errors import BrokenFileError, ConfigError, DataError, RemoteError
from weakclip.store.files import expand_home
from weakclip.store.trees import AnyPath, Stamp, StoredPath, Tree
from weakclip.store.untrusted_text import one_line

WAITS = (0.5, 2.0)
"""Seconds before a request that failed on its way is made again; s3fs and gcsfs try several times themselves."""
_KEPT, _KEPT_BYTES = 8, 4 * 2**20
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "updated", "created")
"""Names that stores give to that by which a changed file is known; the first that is there counts."""
_SECRETS = re.compile(r"//[^/@]+:[^/@]*@|[?&][^=]*(sig|token|key|secret|credential|password)[^=]*=", re.IGNORECASE)
_REFUSED = (401, 403)

Answer = TypeVar("Answer")


class RemoteFolder:
    """A folder at a URL whose files are written, a request each; what fails on its way is tried again.

    Each method raises a `RemoteError` where the store cannot be reached, refuses, or has no such bucket.

    Args:
        url: any that fsspec lists and writes to.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def _at(self, name: str, ask: Callable[[Any, str], Answer], done: str) -> Answer:
        fs, path = _filesystem(self.url, os.getpid())
        return _asked(f"{self.url}/{name}", lambda: ask(fs, f"{path}/{name}"), done)

    def tree(self) -> Tree:
        """The files that are there now; its `files` raises a `DataError` where there are none."""
        _filesystem(self.url, os.getpid())[0].invalidate_cache()
        return UrlTree(self.url)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        _filesystem(self.url, os.getpid())[0].invalidate_cache()  # others write there
        try:
            return self._at(name, lambda fs, path: bytes(fs.cat_file(path)), "read")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        try:
            self._at(name, lambda fs, path: fs.pipe_file(path, content), "written")
        except FileNotFoundError:
            raise self._no_bucket() from None

    def put(self, name: str, file: Path) -> bool:
        """Write the content of a file, whole or not at all; False where it has vanished meanwhile."""
        try:
            self._at(name, lambda fs, path: fs.put_file(str(file), path), "written")
        except FileNotFoundError:
            if file.exists():
                raise self._no_bucket() from None
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._at(name, lambda fs, path: fs.rm_file(path), "removed")

    def _no_bucket(self) -> RemoteError:
        return RemoteError(f"{self.url}: no such bucket; make it, or correct the address")


class UrlTree(Tree):
    """The files below a URL.

    Args:
        url: of a folder, any that fsspec lists, chained ones too (`simplecache::s3://…`).
        only: the one file that is asked for; nothing is listed then, as over `https://`, where nothing can be.
    """

    def __init__(self, url: str, only: str | None = None) -> None:
        super().__init__(url.rstrip("/"))
        self._only = only

    def _listed(self) -> dict[str, Stamp]:
        fs, path = _filesystem(self.url, os.getpid())
        try:
            if self._only is not None:
                fs.invalidate_cache()  # others write there
                return {self._only: _stamp(_asked(self.url, lambda: fs.info(f"{path}/{self._only}")))}
            if self.url.startswith(("http:", "https:")):
                raise ConfigError(f"{self.url}: web servers do not list folders; copy it, or give s3:// or gs://")
            found = _asked(self.url, lambda: fs.find(path, detail=True))
        except FileNotFoundError:
            found = {}
        names = {name.removeprefix(f"{path}/"): info for name, info in found.items() if info["type"] == "file"}
        plain = {name: _stamp(info) for name, info in names.items() if PurePosixPath(name).as_posix() == name}
        if not plain and self._only is None:
            raise DataError(f"{self.url}: no such bucket or folder, or nothing in it; correct the address")
        return plain

    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Tree.read`; what fails on its way is tried again, and the last small files are kept."""
        stamp = self.files.get(file)
        if stamp is None:
            raise _missing(f"{self.url}/{file}")
        whole = start == 0 and stop is None
        read = _kept if whole and 0 <= stamp.size <= _KEPT_BYTES else _read
        return read(self, file, stamp, start, stop)


def _read(tree: UrlTree, file: str, stamp: Stamp, start: int, stop: int | None) -> bytes:
    (fs, path), url = _filesystem(tree.url, os.getpid()), f"{tree.url}/{file}"
    wanted = -1 if stamp.size < 0 else (stamp.size if stop is None else min(stop, stamp.size)) - start

    def answer() -> bytes:
        whole = start == 0 and stop is None
        content: bytes = fs.cat_file(f"{path}/{file}", **({} if whole else {"start": start, "end": start + wanted}))
        if wanted not in (-1, len(content)):
            raise ConnectionError(f"{len(content):,} of {wanted:,} bytes came")
        return content

    try:
        return _asked(url, answer)
    except FileNotFoundError:
        raise _missing(url) from None


_kept = functools.lru_cache(maxsize=_KEPT)(_read)
"""Size, pixels and mask of an image are asked for one after the other."""


def _missing(url: str) -> BrokenFileError:
    return BrokenFileError(f"{url}: no such file; put it back, and give the same command again")


def _stamp(info: Mapping[str, Any]) -> Stamp:
    version = next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), "")
    return Stamp(-1 if info.get("size") is None else int(info["size"]), version)


@functools.lru_cache(maxsize=16)
def _filesystem(url: str, process: int) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it; one a process, for its connections are no other's.

    Raises:
        ConfigError: no such kind of URL, or its reader is not installed.
        RemoteError: one that connects at once, and cannot.
    """
    try:
        import fsspec

        return fsspec.url_to_fs(url)
    except ImportError as error:
        advice = "`pip install weakclip[cloud]` brings those for s3:// and gs://"
        raise ConfigError(f"{url}: its reader is not installed ({one_line(str(error))}); {advice}") from None
    except ValueError as error:
        raise ConfigError(f"{url}: {one_line(str(error))}; expected a folder, s3://…, gs://… or another URL") from None
    except Exception as error:  # some connect here: ftp://, sftp://, smb://, hdfs://
        advice = "correct the address, or see to the network, and give the same command again"
        raise RemoteError(f"{url}: cannot be reached ({_said(error)}); {advice}") from None


def _asked(url: str, question: Callable[[], Answer], done: str = "read") -> Answer:
    """The answer of a store; what fails on its way is asked again.

    Args:
        url: of the file or folder.
        question: asks.
        done: what is to be done with it, for messages.

    Raises:
        FileNotFoundError: as the store says.
        RemoteError: it refuses, or cannot be reached.
    """
    for wait in (*WAITS, None):
        try:
            return question()
        except ConfigError:
            raise
        except Exception as error:  # botocore, aiohttp and google have their own kinds
            cause = error.__cause__ or error  # over https, fsspec says of a refusal that there is no such file
            status = cause.status if hasattr(cause, "status") else getattr(cause, "code", None)
            if isinstance(error, PermissionError) or status in _REFUSED or "Credential" in type(error).__name__:
                advice = "log in as for the store's own tools (AWS_PROFILE, ~/.aws, gcloud auth), or ask for access"
                raise RemoteError(f"{url}: the store refuses to be {done} ({_said(error)}); {advice}") from None
            if isinstance(error, FileNotFoundError):
                raise
            if wait is None:
                advice = f"tried {len(WAITS) + 1} times; see to the network, and give the same command again"
                raise RemoteError(f"{url}: cannot be {done} ({_said(error)}); {advice}") from None
        time.sleep(wait)
    raise AssertionError


def _said(error: Exception) -> str:
    """The words of a library, without the addresses of requests, which may be signed."""
    text = re.sub(r"""["']?\w+://\S+""", "…", one_line(str(error)))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_url(text: Path | str | StoredPath) -> bool:
    """Whether it is a URL and no path: `s3://bucket/photos`."""
    return isinstance(text, str) and "://" in text


def check_url(text: str | None, name: str) -> None:
    """Raise a `ConfigError` where a setting is a URL with a password or a signature: settings are written down."""
    if text is not None and is_url(text) and _SECRETS.search(text):
        shown = re.sub(r"//[^/@]*@", "//…@", text.partition("?")[0])
        raise ConfigError(
            f"{name}: the address {shown} holds a password or a signature, which would be written to the run folder; "
            "leave it out, and log in as for the store's own tools (environment variables, ~/.aws, gcloud auth)"
        )


def folder_at(text: Path | str | StoredPath) -> AnyPath:
    """The folder at a path, with `~` for the home, or at a URL; nothing is asked for yet."""
    if isinstance(text, StoredPath):
        return text
    return StoredPath(UrlTree(str(text))) if is_url(text) else expand_home(text)


def file_at(text: Path | str | StoredPath) -> AnyPath:
    """As `folder_at`, of one file."""
    if isinstance(text, str) and is_url(text):
        place, _, name = text.rpartition("/")
        return StoredPath(UrlTree(place, name), name)
    return folder_at(text)
