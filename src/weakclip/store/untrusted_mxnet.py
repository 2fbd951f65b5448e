"""Arrays from a `.params` file of MXNet, which is read without MXNet and without running anything in it.

A file is two magic numbers, the arrays and their names. An array is its shape, two numbers on its device, its type and
its values. The layout is that of `NDArray::Save` and `NDArray::LegacyLoad` (apache/mxnet, src/ndarray/ndarray.cc).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from weakclip.store.untrusted_text import is_plain, short

_LIST = 0x112
_LEGACY_SHAPE, _STORAGE_TYPE = 0xF993FAC8, 0xF993FAC9
"""Before an array: shape in 64-bit numbers; storage type first. Older files have the number of dimensions there."""

_TYPES = dict(enumerate(("<f4", "<f8", "<f2", "<u1", "<i4", "<i1", "<i8")))
_MOST_ARRAYS, _MOST_DIMENSIONS, _LONGEST_NAME = 10_000, 8, 200  # ResNet38: 193 arrays, 4 dimensions, 32 letters


def read_mxnet(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.params` file by their names ("arg:conv1a_weight").

    Memory for a value is taken only where the file has it.

    Raises:
        ValueError: no such file, another kind of file, sparse arrays, or sizes that the file does not have, in one line
            that names no file.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).arrays()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def arrays(self) -> dict[str, np.ndarray]:
        if self.size < 24 or self._numbers("Q", 2)[0] != _LIST:
            raise ValueError("it does not begin as a list of MXNet arrays")
        arrays = [self._array() for _ in range(self._count("arrays", _MOST_ARRAYS))]
        names = [self._name() for _ in range(self._count("names", _MOST_ARRAYS))]
        if len(set(names)) != len(arrays) or len(names) != len(arrays):
            raise ValueError(f"{len(arrays)} arrays with {len(set(names))} different names")
        if self.file.tell() != self.size:
            raise ValueError(f"{self.size - self.file.tell():,} bytes after the last name")
        return dict(zip(names, arrays, strict=True))

    def _array(self) -> np.ndarray:
        (first,) = self._numbers("I", 1)
        if first == _STORAGE_TYPE:
            (storage,) = self._numbers("i", 1)
            if storage != 0:
                raise ValueError(f"an array of storage type {storage}; expected dense ones, 0")
        if first in (_STORAGE_TYPE, _LEGACY_SHAPE):
            shape = self._numbers("q", self._dimensions(*self._numbers("I", 1)))
        else:
            shape = self._numbers("I", self._dimensions(first))
        *_, kind = self._numbers("i", 3)  # type and number of the device, type of the values
        if kind not in _TYPES or min(shape) < 0:
            raise ValueError(f"an array of type {kind} and shape {short(list(shape))}")
        values = np.frombuffer(self._bytes(math.prod(shape) * np.dtype(_TYPES[kind]).itemsize), dtype=_TYPES[kind])
        return values.reshape(shape)

    def _dimensions(self, count: int) -> int:
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise ValueError(f"an array of {count} dimensions; expected 1 to {_MOST_DIMENSIONS}")
        return count

    def _count(self, kind: str, most: int) -> int:
        (count,) = self._numbers("Q", 1)
        if count > most:
            raise ValueError(f"{count:,} {kind}; expected at most {most:,}")
        return count

    def _name(self) -> str:
        name = self._bytes(self._count("letters in a name", _LONGEST_NAME)).decode("ascii", errors="replace")
        if not is_plain(name):
            raise ValueError(f"the name {short(name)}; expected letters without control characters")
        return name

    def _numbers(self, kind: str, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{kind}", self._bytes(count * struct.calcsize(f"<{kind}")))

    def _bytes(self, count: int) -> bytes:
        left = self.size - self.file.tell()
        if count > left:
            raise ValueError(f"{count:,} bytes are announced where {left:,} are left")
        return self.file.read(count)
