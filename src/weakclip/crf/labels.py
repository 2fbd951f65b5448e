"""Labels whose planes are equal everywhere share one column of the mean field; this is exact.

Their marginals stay equal in every iteration (Potts, the same messages), so one column counts several times in the
softmax's sum. Classes absent from an image, held at a common floor, then cost next to nothing.
"""

from __future__ import annotations

import numpy as np


def merge_equal_planes(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct planes among K.

    Args:
        planes: `(K, N)`.

    Returns:
        distinct: `(D,)` int64, the index of the first plane of each kind, ascending.
        column: `(K,)` int64, which of the D kinds each plane is.
    """
    stride = max(1, planes.shape[1] // 64)
    kinds: dict[bytes, list[int]] = {}  # a few samples of a plane → kinds that share them
    distinct: list[int] = []
    column = np.empty(len(planes), dtype=np.int64)
    for label, plane in enumerate(planes):
        candidates = kinds.setdefault(plane[::stride].tobytes(), [])
        same = next((kind for kind in candidates if np.array_equal(planes[distinct[kind]], plane)), None)
        if same is None:
            same = len(distinct)
            distinct.append(label)
            candidates.append(same)
        column[label] = same
    return np.array(distinct, dtype=np.int64), column
