"""Boxes around the strong parts of a score map."""

from __future__ import annotations

import numpy as np


def strong_boxes(scores: np.ndarray, threshold: float) -> list[tuple[int, int, int, int]]:
    """Bounding boxes of the connected parts of a map that exceed a share of its maximum.

    As in the released CLIP-ES: scores count in steps of 1/255, and parts touch over corners too.

    Args:
        scores: `(h, w)`, 0…1.
        threshold: share of the maximum, 0…1.

    Returns:
        One `(top, left, bottom, right)` a part, half-open, in reading order of their first pixels.

    >>> strong_boxes(np.array([[1.0, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.0]]), 0.5)
    [(0, 0, 2, 2)]
    """
    steps = (scores * 255).astype(np.uint8)
    left_over = set(zip(*map(np.ndarray.tolist, np.nonzero(steps > int(threshold * steps.max()))), strict=True))
    last_row, last_column = scores.shape[0] - 1, scores.shape[1] - 1
    boxes = []
    for start in sorted(left_over):
        if start not in left_over:
            continue
        part = _flood(start, left_over)
        rows, columns = [row for row, _ in part], [column for _, column in part]
        # As the authors' code: a box that reaches the last row or column ends one before it, and a part that lies
        # within the last row or column has an empty box.
        boxes.append((min(rows), min(columns), min(max(rows) + 1, last_row), min(max(columns) + 1, last_column)))
    return boxes


def _flood(start: tuple[int, int], pixels: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The part that `start` belongs to; it is taken out of `pixels`."""
    pixels.discard(start)
    part = [start]
    for row, column in part:  # grows while it is walked
        for near in [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]:
            if near in pixels:
                pixels.discard(near)
                part.append(near)
    return part


def box_mask(scores: np.ndarray, threshold: float) -> np.ndarray:
    """`(h, w)` bool, True inside the boxes of `strong_boxes`."""
    mask = np.zeros(scores.shape, dtype=bool)
    for top, left, bottom, right in strong_boxes(scores, threshold):
        mask[top:bottom, left:right] = True
    return mask
