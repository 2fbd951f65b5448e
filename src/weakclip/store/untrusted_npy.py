"""Dictionaries of arrays from `.npy` files, read without running anything in them.

`np.save` of a dictionary writes a pickle, and a pickle may run any code when it is loaded. The reader here rebuilds
only plain arrays, containers, numbers and text, with functions of its own, and refuses every other name; tensors of
torch become arrays. Class activation maps and image-level labels come in such files.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.errors import BrokenFileError, first_line
from weakclip.store.bounded_pickle import BoundedUnpickler, unchangeable
from weakclip.store.untrusted_storage import Storage, rebuilt_parameter, rebuilt_tensor
from weakclip.store.untrusted_text import one_line

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_PLAIN_KINDS = "biufU"

MOST_BYTES = 2**32
"""Of a `.npz` when unpacked: a packed file of some megabytes can stand for any number of gigabytes."""


def read_npy(path: Path | str) -> Any:
    """The content of a `.npy` file: an array, or the one object that it wraps.

    Args:
        path: the file; arrays of numbers, or a pickled dictionary, list or tuple of arrays, tensors, numbers and text.

    Returns:
        A numpy array, or the object.

    Raises:
        DataError: no such file, not a `.npy` file, or a pickle of anything else.
    """
    try:
        with Path(path).open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if any(size < 0 for size in shape):  # older numpy takes -1 for as much as there is
                raise ValueError(f"shape {shape}")
            if not dtype.hasobject:
                return np.load(path, allow_pickle=False, max_header_size=10_000)
            content = _resolved(_PlainUnpickler(file, encoding="latin1").load())
            return content.item() if isinstance(content, np.ndarray) and shape == () else content
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = one_line(first_line(error))
        raise BrokenFileError(f"{path}: not a `.npy` file of plain arrays that can be read safely ({reason})") from None


def find_arrays(folder: Path, name: str) -> Path | None:
    """`NAME.npy` or `NAME.npz` in a folder; None where there is neither."""
    paths = (folder / f"{name}{suffix}" for suffix in (".npy", ".npz"))
    return next((path for path in paths if path.is_file()), None)


def read_npz(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by their names; nothing in it is run, and nothing is unpacked that is too large.

    Raises:
        DataError: no such file, not such a file, an array of objects, or more than `MOST_BYTES` when unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_BYTES:
            raise ValueError(f"{unpacked:,} bytes when unpacked; {MOST_BYTES:,} at most")
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        foreign = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
        if foreign:
            raise ValueError(f"{foreign[0]!r} is no array")
        return arrays
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: no such file") from None
    except Exception as error:  # a damaged archive raises nearly anything
        reason = one_line(first_line(error))
        raise BrokenFileError(f"{path}: not a `.npz` file of plain arrays ({reason})") from None


class _DType:
    """A dtype in the making."""

    def __init__(self, spec: str, *_: object) -> None:
        self.spec, self.order, self.objects = spec, "=", spec in ("O", "O8")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def build(self) -> np.dtype[Any]:
        dtype = np.dtype(self.spec)
        if dtype.kind not in _PLAIN_KINDS:
            raise pickle.UnpicklingError(f"refused an array of {dtype}")
        return dtype.newbyteorder(">") if self.order == ">" else dtype


class _Array:
    """An array in the making; the arguments of numpy's own function are of no use here."""

    def __init__(self, *_: object) -> None:
        self.content: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.objects:
            self.content = np.empty(len(data), dtype=object)
            self.content[:] = [_resolved(value) for value in data]
            self.content = _shaped(self.content, shape, fortran=fortran)
        else:
            raw = data.encode("latin1") if isinstance(data, str) else memoryview(data)
            self.content = _shaped(np.frombuffer(raw, dtype=dtype.build()), shape, fortran=fortran)


def _scalar(dtype: _DType, data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=dtype.build())[0]


def _from_buffer(buffer: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _shaped(np.frombuffer(buffer, dtype=dtype.build()), shape, fortran=order == "F")


def _shaped(flat: np.ndarray, shape: tuple[int, ...], *, fortran: bool) -> np.ndarray:
    return flat.reshape(shape, order="F") if fortran else flat.reshape(shape)


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


class _Ndarray:
    """Stands for the name `numpy.ndarray`, which pickles mention beside `_reconstruct`."""

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("refused to change a class")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Ndarray,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
    **{(module, "_reconstruct"): _Array for module in _MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _from_buffer for module in _NUMERIC},
    ("torch.storage", "_load_from_bytes"): Storage,
    ("torch._utils", "_rebuild_tensor"): rebuilt_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuilt_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuilt_parameter,
}


for _function in (_scalar, _from_buffer, _latin1, _no_bytes, rebuilt_tensor, rebuilt_parameter):
    unchangeable(_function)


class _PlainUnpickler(BoundedUnpickler):
    """Plain arrays, containers, numbers and text."""

    def find_class(self, module: str, name: str) -> Any:
        return _ADMITTED.get((module, name)) or super().find_class(module, name)


def _resolved(value: Any, done: dict[int, Any] | None = None) -> Any:
    """The value with finished arrays in the place of those in the making, each container once."""
    done = {} if done is None else done
    if isinstance(value, _Array):
        if value.content is None:
            raise pickle.UnpicklingError("an array without content")
        return value.content
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: _resolved(item, done) for key, item in value.items()}
        else:
            done[id(value)] = type(value)([_resolved(item, done) for item in value])
    return done[id(value)]
