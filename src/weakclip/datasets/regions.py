"""Regions of the COCO format as pixel masks: polygons, and run lengths plain or compressed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fill_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Each edge toggles, in every row whose centre it crosses, the pixels to the right of the crossing; a running sum
    along the row then counts the toggles.

    Args:
        corners: `(n, 2)` x, y in pixels; pixel `(row, column)` covers `[column, column + 1) × [row, row + 1)`.
        size: height and width of the mask.

    Returns:
        `(H, W)` bool.

    >>> fill_polygon(np.array([[1, 0], [3, 0], [3, 1], [1, 1]]), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.zeros(size, dtype=bool)
    left, top = np.floor(corners.min(axis=0)).clip(0, size[::-1]).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).clip(0, size[::-1]).astype(int)
    height, width = bottom - top, right - left
    toggles = np.zeros((height, width + 1), dtype=np.int32)
    corners = corners - (left, top)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        if first < last:
            rows = np.arange(first, last)
            crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.ceil(crossings - 0.5).clip(0, width).astype(int)
            toggles[rows, columns] += 1
    mask[top:bottom, left:right] = toggles.cumsum(axis=1)[:, :width] % 2
    return mask


def decode_runs(counts: Sequence[int] | str | bytes, size: tuple[int, int]) -> np.ndarray:
    """Pixels of a run-length code: runs of outside and inside in turn, down the columns.

    Args:
        counts: run lengths, or the string that the COCO tools pack them into.
        size: height and width.

    Returns:
        `(H, W)` bool.

    Raises:
        ValueError: the runs do not add up to the size.

    >>> decode_runs([1, 2, 3], (2, 3)).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    runs = unpack_runs(counts) if isinstance(counts, str | bytes) else list(counts)
    if sum(runs) != size[0] * size[1] or min(runs, default=0) < 0:
        raise ValueError(f"run lengths cover {sum(runs)} pixels; expected {size[1]}x{size[0]}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size, order="F")


def unpack_runs(packed: str | bytes) -> list[int]:
    """Run lengths from the string of the COCO tools: signed numbers of 5-bit groups, low group first, each character
    48 above its group (bit 5: more follow); from the fourth on, the difference to the run two before.

    Raises:
        ValueError: a character outside the code, or a number that is cut off.

    >>> unpack_runs("31`02?0TO")
    [3, 1, 16, 3, 31, 3, 3]
    """
    runs: list[int] = []
    value = shift = 0
    for character in packed.encode("latin-1") if isinstance(packed, str) else packed:
        group = character - 48
        if not 0 <= group < 64:
            raise ValueError(f"character {chr(character)!r} is not part of a run-length code")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run-length code is cut off")
    return runs
