"""Finds the same photo under several names: files with equal bytes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from weakclip.store.trees import AnyPath, stamp_of

_PIECE = 4096


def same_photos(folder: AnyPath, files: Iterable[str]) -> list[tuple[str, ...]]:
    """The files with equal bytes, in groups of two or more, each in the order of the files.

    Only files of one size are opened, and only those that agree at both ends are read whole. A file that cannot be read
    is like no other.

    Args:
        folder: where they are.
        files: their paths below it.
    """
    groups = [tuple(file for file in files if (folder / file).is_file())]
    for key in (_size, _ends, _digest):
        groups = [part for group in groups for part in _parted(folder, group, key)]
    return groups


def _parted(folder: AnyPath, files: Iterable[str], key: Callable[[AnyPath], object]) -> list[tuple[str, ...]]:
    parts: dict[object, list[str]] = {}
    for file in files:
        with contextlib.suppress(OSError):
            parts.setdefault(key(folder / file), []).append(file)
    return [tuple(part) for part in parts.values() if len(part) > 1]


def _size(path: AnyPath) -> int:
    return stamp_of(path).size


def _ends(path: AnyPath) -> bytes:
    with path.open("rb") as file:
        head = file.read(_PIECE)
        file.seek(-min(_PIECE, stamp_of(path).size), 2)
        return head + file.read(_PIECE)


def _digest(path: AnyPath) -> bytes:
    with path.open("rb") as file:
        readable: Any = file
        return hashlib.file_digest(readable, "blake2b").digest()
