"""One writer at a time in the folder of a run or a study: a second one is told who works there.

Shards of a stage work in one folder at once: each has a lock of its own beside that of the folder, whose holder works
in no folder with a shard at work, and no shard in one whose own lock is held.

The system's lock (`flock`) on `.weakclip.lock` counts, which ends with its process however that ends; what is written
in the file only says whose it is. On a file system without such locks the file itself counts, as far as it can.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from weakclip.errors import RunError
from weakclip.store.files import no_link, process_lives, writing
from weakclip.store.untrusted_text import parse_json

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("weakclip")

LOCK = ".weakclip.lock"
START = "start"
"""Name of the lock that shards hold one after the other, while they plan or train."""
ASKED_EVERY, GIVEN_UP_AFTER = 0.2, 7 * 24 * 3600.0
"""Seconds: from question to question whether a lock is free, and until nobody asks any more."""
_held: set[int] = set()


def _close_inherited() -> None:
    """A forked data worker that outlives its parent must not hold the parent's lock."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


class FolderInUseError(RunError):
    """Another process works in the folder."""


class FolderLock:
    """Held while a process works in a folder.

    Args:
        folder: made where it is missing; if it is still empty at the end, it is removed again.
        name: of a shard, or `START`; empty for the whole folder.
        wait: whether to wait for who holds the same lock.

    Raises:
        FolderInUseError: on entering, where another process works in the folder; named are its number and machine.
        RunError: a file in the folder's place.
        StorageError: the folder cannot be written.

    >>> import tempfile
    >>> with FolderLock(Path(tempfile.mkdtemp()) / "run") as lock:
    ...     lock.path.name
    '.weakclip.lock'
    """

    def __init__(self, folder: Path | str, name: str = "", *, wait: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder / (f"{LOCK}.{name}" if name else LOCK)
        self.name, self.wait = name, wait
        self._made = False
        self._handle = -1

    def __enter__(self) -> FolderLock:
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder}: is a file; give a folder")
        with writing(self.path):
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = self._wait_for_it() if self.wait else self._take()
            _held.add(self._handle)
            self._sign()
        try:
            for rival in self._rivals():
                _check_free(rival)
        except FolderInUseError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.path.unlink(missing_ok=True)  # while it is held: whoever waits sees that the file is another one
            if self._made and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError:
            pass  # a read-only or vanished folder: the lock itself ends with the handle
        if self._handle in _held:
            _held.remove(self._handle)
            os.close(self._handle)

    def _rivals(self) -> list[Path]:
        """The locks that nobody may hold beside this one."""
        if not self.name:
            return sorted(self.folder.glob(f"{LOCK}.*"))
        return [] if self.name == START else [self.folder / LOCK]

    def _wait_for_it(self) -> int:
        """As `_take`, when whoever holds the lock has gone."""
        said, until = False, time.monotonic() + GIVEN_UP_AFTER
        while True:
            try:
                return self._take()
            except FolderInUseError as error:
                if time.monotonic() > until:
                    raise
                if not said:
                    logger.info("waits: %s", str(error).partition(";")[0])
                said = True
                time.sleep(ASKED_EVERY)

    def _take(self) -> int:
        """The handle of the lock file, locked."""
        while True:
            handle = no_link(str(self.path), os.O_RDWR | os.O_CREAT)
            try:
                if not _flock(handle, self.path):
                    _check_owner(self.path)
                if _is_at(handle, self.path):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its owner has just gone, and the file with it

    def _sign(self) -> None:
        """Say whose lock it is; and whose it was, if that process could not end in peace."""
        last = _read_owner(self.path)
        if last:
            logger.info("the process %s on %s was cut short here; its work is taken up", last["pid"], last["host"])
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, json.dumps(owner).encode())


def _check_owner(path: Path) -> None:
    """Without a lock of the system: go by what the file says."""
    owner = _read_owner(path)
    if owner.get("host") == socket.gethostname() and not process_lives(int(owner.get("pid", 0))):
        return
    if owner:
        raise FolderInUseError(f"{_in_use(path)}; if that process is no more, remove {path}")


def _check_free(path: Path) -> None:
    """Refuse where another process holds that lock; several may ask at once.

    Raises:
        FolderInUseError: it does.
    """
    try:
        handle = no_link(str(path), os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if not _flock(handle, path, shared=True):
            _check_owner(path)
    finally:
        os.close(handle)


def at_work(folder: Path, *, but: str) -> bool:
    """Whether a shard of another name works in a folder."""
    for path in folder.glob(f"{LOCK}.*"):
        if path.name not in (f"{LOCK}.{but}", f"{LOCK}.{START}"):
            try:
                _check_free(path)
            except FolderInUseError:
                return True
    return False


def _flock(handle: int, path: Path, *, shared: bool = False) -> bool:
    """Lock the file; False where the system or the file system has no such locks.

    Raises:
        FolderInUseError: another process holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUseError(_in_use(path)) from None
    except OSError:
        return False
    return True


@contextlib.contextmanager
def waited_for(handle: int) -> Iterator[None]:
    """Hold an open file's lock, after everybody who has it; where the system or the file system has none, go on."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)


def _in_use(path: Path) -> str:
    owner = _read_owner(path)
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    since = f" since {owner['since']}" if owner else ""
    return f"{path.parent}: {who} works here{since}; wait until it ends, stop it, or choose another folder"


def _read_owner(path: Path) -> dict[str, Any]:
    """The entries of the lock file; none where it is empty or torn."""
    if not path.is_file():
        return {}  # a pipe would never end
    try:
        owner = parse_json(path.read_text(encoding="utf-8"))
        return {"pid": int(owner["pid"]), "host": str(owner["host"]), "since": str(owner["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one that lies at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
