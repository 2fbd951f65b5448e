"""One writer at a time in the folder of a run or a study: a second one is told who works there.

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

    Raises:
        FolderInUseError: on entering, where another process works in the folder; named are its number and machine.
        RunError: a file in the folder's place.
        StorageError: the folder cannot be written.

    >>> import tempfile
    >>> with FolderLock(Path(tempfile.mkdtemp()) / "run") as lock:
    ...     lock.path.name
    '.weakclip.lock'
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / LOCK
        self._made = False
        self._handle = -1

    def __enter__(self) -> FolderLock:
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder}: is a file; give a folder")
        with writing(self.path):
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = self._take()
            _held.add(self._handle)
            self._sign()
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

    def _take(self) -> int:
        """The handle of the lock file, locked."""
        while True:
            handle = no_link(str(self.path), os.O_RDWR | os.O_CREAT)
            try:
                if not _flock(handle, self.path):
                    self._check_owner()
                if _is_at(handle, self.path):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its owner has just gone, and the file with it

    def _check_owner(self) -> None:
        """Without a lock of the system: go by what the file says."""
        owner = _read_owner(self.path)
        if owner.get("host") == socket.gethostname() and not process_lives(int(owner.get("pid", 0))):
            return
        if owner:
            raise FolderInUseError(f"{_in_use(self.path)}; if that process is no more, remove {self.path}")

    def _sign(self) -> None:
        """Say whose lock it is; and whose it was, if that process could not end in peace."""
        last = _read_owner(self.path)
        if last:
            logger.info("the process %s on %s was cut short here; its work is taken up", last["pid"], last["host"])
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, json.dumps(owner).encode())


def _flock(handle: int, path: Path) -> bool:
    """Lock the file; False where the system or the file system has no such locks.

    Raises:
        FolderInUseError: another process holds it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
