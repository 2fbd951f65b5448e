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
        size = math.prod(shape)
        if name not in self.kept or self.kept[name].size < size:
            self.kept[name] = np.empty(size, dtype)
        return self.kept[name][:size].reshape(shape)


workspace = Workspace()
