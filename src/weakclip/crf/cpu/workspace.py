"""Arrays that a thread uses again."""

from __future__ import annotations

import math
import threading

import numpy as np

_PAGE = 4096
_STAGGER = 17 * 64


class Workspace(threading.local):
    """Arrays that a thread uses again: fresh memory costs more than what is done with it."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}
        self.places: dict[str, int] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array of any content, valid until the same name is taken again.

        Arrays begin at cache lines, and no two at the same place of their page: a processor holds back a load that
        comes after a store elsewhere, to an address that ends in the same 12 bits.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self.kept or self.kept[name].size < size:
            self.kept.pop(name, None)  # before the larger one is made
            memory = np.empty(size + 2 * _PAGE, np.uint8)
            place = self.places.setdefault(name, len(self.places)) * _STAGGER
            begin = (place - memory.ctypes.data) % _PAGE
            self.kept[name] = memory[begin : begin + size]
        return self.kept[name][:size].view(dtype).reshape(shape)


workspace = Workspace()
