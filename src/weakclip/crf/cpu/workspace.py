"""Memory that is used again: arrays of each thread, and results that are kept from call to call.

Fresh memory costs 10 to 20 ms an image in page faults, so it is kept, up to a bound. `release` gives all of it back.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import numpy as np

MOST_RESERVED = 256 * 2**20
"""Bytes that the arrays of one thread may reserve between two images; 640×480 with few labels takes 110 MiB."""
MOST_CACHED = 128 * 2**20
"""Bytes of the results that are kept for all threads; a Gaussian kernel's lattice at 640×480 takes about 10 MiB."""

_PAGE = 4096
_STAGGER = 17 * 64
Result = TypeVar("Result")

_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # no forked process starts with a lock that nobody will give back
    os.register_at_fork(before=_lock.acquire, after_in_child=_lock.release, after_in_parent=_lock.release)


class _Blocks:
    """The memory of one thread: blocks of bytes by name, and the place of each in its page."""

    def __init__(self) -> None:
        self.blocks: dict[str, np.ndarray] = {}
        self.places: dict[str, int] = {}


_all_blocks: weakref.WeakSet[_Blocks] = weakref.WeakSet()  # those of a thread that ended are gone from it


class Workspace(threading.local):
    """Arrays that a thread uses again."""

    def __init__(self) -> None:
        self._own = _Blocks()
        with _lock:
            _all_blocks.add(self._own)

    def take(self, name: str, shape: tuple[int, ...], dtype: type, *, instead_of: str | None = None) -> np.ndarray:
        """An array of any content, valid until the same name is taken again.

        Arrays begin at cache lines, and no two at the same place of their page: a processor holds back a load that
        comes after a store elsewhere, to an address that ends in the same 12 bits.

        Args:
            name: says what the array holds.
            shape: its shape.
            dtype: its type.
            instead_of: the name of an array that is never in use at the same time; they share their memory.
        """
        name, own = instead_of or name, self._own
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = own.blocks.get(name)
        if block is None or block.size < size:
            block = None
            own.blocks.pop(name, None)  # before the larger one is made
            memory = np.empty(size + 2 * _PAGE, np.uint8)
            place = own.places.setdefault(name, len(own.places)) * _STAGGER
            begin = (place - memory.ctypes.data) % _PAGE
            block = own.blocks[name] = memory[begin : begin + size]
        return block[:size].view(dtype).reshape(shape)

    def trim(self) -> None:
        """Give the thread's largest arrays back until the others reserve `MOST_RESERVED` bytes or fewer."""
        own = self._own
        sizes = [(block.size, name) for name, block in own.blocks.copy().items()]  # others may call `release` meanwhile
        reserved = sum(size for size, _ in sizes)
        while reserved > MOST_RESERVED:
            size, name = max(sizes)
            sizes.remove((size, name))
            own.blocks.pop(name, None)
            reserved -= size


class Cache:
    """Results by key for all threads; those not used for longest go when all take more than `MOST_CACHED` bytes."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The kept result, else that of `make`: arrays, and tuples of arrays, which nobody may write to."""
        with _lock:
            if key in self._results:
                self._results.move_to_end(key)
                return cast(Result, self._results[key][0])
        result = make()
        with _lock:
            self._results[key] = (result, num_bytes(result))
            while sum(size for _, size in self._results.values()) > MOST_CACHED:
                self._results.popitem(last=False)
        return result

    def clear(self) -> None:
        """Keep nothing."""
        with _lock:
            self._results.clear()

    def num_bytes(self) -> int:
        """Bytes of all results."""
        with _lock:
            return sum(size for _, size in self._results.values())


def num_bytes(value: object) -> int:
    """Bytes of an array, or of all arrays in a tuple."""
    if isinstance(value, tuple):
        return sum(num_bytes(part) for part in value)
    return value.nbytes if isinstance(value, np.ndarray) else 0


workspace = Workspace()
cache = Cache()


def held_bytes() -> int:
    """Bytes that all threads reserve and the cache holds."""
    with _lock:
        threads = [list(own.blocks.values()) for own in _all_blocks]
    return cache.num_bytes() + sum(block.size for blocks in threads for block in blocks)


def release() -> None:
    """Give the memory that the dense CRF keeps from call to call back: that of all threads, and kept lattices.

    A call that runs in another thread is not disturbed. Without `release`, each thread that has worked reserves up to
    256 MiB (`NUMBA_NUM_THREADS` limits the threads), and lattices of the sizes seen last take up to 128 MiB.
    """
    with _lock:
        for own in _all_blocks:
            own.blocks.clear()
    cache.clear()
