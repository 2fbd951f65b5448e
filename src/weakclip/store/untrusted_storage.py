"""Tensors of torch inside a pickle, as arrays; nothing of torch is called, and it is not even imported.

A pickled tensor is a call of `_rebuild_tensor_v2` on its storage, and the storage a call of `_load_from_bytes` on the
bytes of a file in torch's legacy format (torch/serialization.py, `_legacy_save`): pickles of a magic number, the
version, the machine, the storage and its key, then the count and the numbers. Arrays are views of these bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from typing import Any

import numpy as np

from weakclip.store.bounded_pickle import BoundedUnpickler

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
"""dtype of the numbers in a storage, by its name in the module torch; numpy has none for bfloat16."""


class Storage:
    """The numbers of one or more tensors, `(N,)`."""

    def __init__(self, content: object) -> None:
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("a storage without bytes")
        self.numbers = _read(content)

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("refused to change a storage")


def rebuilt_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> np.ndarray[Any, np.dtype[Any]]:
    """The array of a tensor: a view of its storage, so that many tensors of one storage take no more memory.

    Raises:
        UnpicklingError: another shape than the storage has room for.
    """
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = storage.numbers
    shape, steps, start = _sizes(size), _sizes(stride), _sizes((offset,))[0]
    count: int = math.prod(list(shape))
    last = start + sum((length - 1) * step for length, step in zip(shape, steps, strict=False))
    if len(shape) != len(steps) or count > len(numbers) or (count and last >= len(numbers)):
        raise pickle.UnpicklingError(f"{len(numbers)} numbers as a tensor of {shape}")
    if not count:
        return np.zeros(shape, dtype=numbers.dtype)
    strides = [step * numbers.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(numbers[start:], shape, strides, writeable=False)


def rebuilt_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    """The array of a trainable tensor."""
    return data


def _sizes(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < 2**40 for value in values):
        raise pickle.UnpicklingError("a tensor with odd sizes")
    return values


def _read(content: bytes) -> np.ndarray:
    """The one storage of a file."""
    file = io.BytesIO(content)
    magic, version, machine = (_StorageUnpickler(file).load() for _ in range(3))
    if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict) or machine.get("little_endian") is False:
        raise pickle.UnpicklingError("a storage in another format than torch's legacy one")
    spec, key, expected = _stored(_StorageUnpickler(file).load())
    if _StorageUnpickler(file).load() != [key]:
        raise pickle.UnpicklingError("a storage without its key")
    (count,) = struct.unpack("<q", file.read(8))
    dtype, left = np.dtype(spec), len(content) - file.tell()
    if not 0 <= count == expected or left != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"a storage of {left} bytes for {expected} numbers")
    return np.frombuffer(content, dtype=dtype, offset=file.tell(), count=count)


def _stored(root: object) -> tuple[str, str, int]:
    """dtype, key and count of a storage, as the pickle names it; views of others are refused."""
    match root:
        case _Reference((_, _Kind(spec=spec), str(key), str(), int(count), None)):
            return spec, key, count
    raise pickle.UnpicklingError("a storage that torch does not write so")


class _Kind:
    """Stands for the class of a storage."""

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("refused to change a class")


class _Reference:
    """A storage, by what a pickle says of it."""

    __match_args__ = ("parts",)

    def __init__(self, parts: object) -> None:
        self.parts = parts

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("refused to change a storage")


class _StorageUnpickler(BoundedUnpickler):
    """Numbers, text, containers of them, and references to storages."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Reference:
        return _Reference(pid)
