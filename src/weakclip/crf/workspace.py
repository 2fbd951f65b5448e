"""Arrays that a thread uses again."""

from __future__ import annotations

import math
import threading

import numpy as np


class Workspace(threading.local):
    """Arrays that a thread uses again: fresh memory costs more than what is done with it."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """An array of any content, valid until the same name is taken again."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self.kept or self.kept[name].size < size:
            self.kept.pop(name, None)  # before the larger one is made
            self.kept[name] = np.empty(size, np.uint8)
        return self.kept[name][:size].view(dtype).reshape(shape)


workspace = Workspace()
