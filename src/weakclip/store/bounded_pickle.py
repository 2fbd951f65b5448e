"""A reader of pickles that runs nothing, and reserves no more memory than a file has bytes."""

from __future__ import annotations

import pickle
from typing import Any

_PART = 2**20  # bytes that are read at a time


def _read_byte_array(unpickler: Any) -> None:
    """A byte array part by part; Python's own reader first makes one of zeros, as long as the file says."""
    size, content = int.from_bytes(unpickler.read(8), "little"), bytearray()
    while len(content) < size:
        part = unpickler.read(min(size - len(content), _PART))
        if not part:
            raise pickle.UnpicklingError("a byte array is cut off")
        content += part
    unpickler.append(content)


class BoundedUnpickler(pickle._Unpickler):
    """An unpickler that reserves no more than a file holds, and admits no name; subclasses list the allowed ones.

    Python's own, for its memo is a dictionary: in that of C one number of a file reserves gigabytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def unchangeable(function: Any) -> None:
    """Give a function that a pickle may call a refusal of any state: Python would set attributes of it."""
    function.__setstate__ = _refuse_state


def _refuse_state(_: object) -> None:
    raise pickle.UnpicklingError("refused to change a function")


_BYTE_ARRAY = 0x96  # an operation of protocol 5
BoundedUnpickler.dispatch = {**BoundedUnpickler.dispatch, _BYTE_ARRAY: _read_byte_array}
