"""Lists of the files of a folder of results, here and at a URL; for `mirror`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from weakclip.errors import DataError
from weakclip.store.lock import LOCK
from weakclip.store.trees import Stamp, Tree

WRITER = ".weakclip.writer"
"""At the URL: who wrote there last, `{"writer": …, "host": …, "since": …}`; each command writes another one."""
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')

Stamps = dict[str, tuple[int, int]]
"""Name of a file below a folder, with `/` → its size in bytes and its time in nanoseconds."""


def list_files(folder: Path) -> Stamps:
    """The files of a copy, without locks and temporary files."""
    found, pending = Stamps(), [""]
    while pending:
        below = pending.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if _is_passing(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file(follow_symlinks=False) and (stamp := file_stamp(folder / name)):
                    found[name] = stamp
    return found


def remove_empty(folder: Path) -> None:
    """Remove the folders below one in which there is no file."""
    for below, _, _ in os.walk(folder, topdown=False):
        if below != str(folder):
            with contextlib.suppress(OSError):
                os.rmdir(below)


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Size and time; None where it has vanished."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def names_in(tree: Tree) -> list[str]:
    """The files at a URL that belong into a copy; none where there is nothing."""
    try:
        names = [name for name in tree.files if name != WRITER]
    except DataError:
        return []
    parts = ((name, re.split(r"[/\\]", name)) for name in names)
    return [name for name, each in parts if ".." not in each and not _is_passing(each[-1])]


def _is_passing(name: str) -> bool:
    return name.startswith(LOCK) or (name.startswith(".") and name.endswith(".tmp"))


def is_same(path: Path, stamp: Stamp) -> bool:
    """Whether a file is what a store has, as far as it says: S3's ETag is the MD5 of what came in one piece."""
    md5 = _MD5.fullmatch(stamp.version)
    if md5 is None or not path.is_file() or path.stat().st_size != stamp.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5[1]


def read_file(path: Path) -> bytes | None:
    """The content of a file; None where there is none."""
    return path.read_bytes() if path.is_file() else None
