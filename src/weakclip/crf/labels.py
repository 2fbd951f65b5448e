"""Labels whose planes are equal everywhere share one column of the mean field; this is exact.

Their marginals stay equal in every iteration (Potts, the same messages), so one column counts several times in the
softmax's sum. Classes absent from an image, held at a common floor, then cost next to nothing.
"""

from __future__ import annotations

import numpy as np

from weakclip.crf import cpu_rows


def merge_equal_planes(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct planes among K.

    Args:
        planes: `(K, N)`.

    Returns:
        distinct: `(D,)` int64, the index of the first plane of each kind, ascending.
        column: `(K,)` int64, which of the D kinds each plane is.
    """
    distinct = np.empty(len(planes), dtype=np.int64)
    column = np.empty(len(planes), dtype=np.int64)
    count = cpu_rows.find_equal_planes(planes.ravel(), distinct, column)
    return distinct[:count], column
