"""Polygons round the pixels of a mask: its exact outline, or one with fewer corners.

The outline runs between pixels, along their edges. Pixels that touch only at a corner are apart; so each polygon goes
round one region of pixels that touch at edges. A hole is joined to the polygon round it by a line that is walked there
and back, and so encloses nothing: formats without holes can hold it, by the even-odd and by the non-zero rule alike.

References:
    Douglas and Peucker, "Algorithms for the reduction of the number of points required to represent a digitized line
    or its caricature", Cartographica 10 (2), 1973: the simplification.
"""

from __future__ import annotations

import numpy as np


def mask_polygons(pixels: np.ndarray, *, tolerance: float = 0.0) -> list[np.ndarray]:
    """Polygons whose union is the mask.

    Args:
        pixels: `(H, W)` bool.
        tolerance: how far the polygon may stray from the outline, pixels; 0 for the outline itself, which
            `regions.fill_polygon` fills to the very same mask.

    Returns:
        One array `(n, 2)` of x, y in pixels a region, n ≥ 4 (n ≥ 3 with a tolerance), not closed; pixel `(row, column)`
        covers `[column, column + 1) × [row, row + 1)`. Regions are in the order of their first pixels.

    >>> mask_polygons(np.array([[False, True, True]]))[0].tolist()
    [[1, 0], [3, 0], [3, 1], [1, 1]]
    """
    rings = _rings(pixels)
    holes: dict[int, list[np.ndarray]] = {}
    parents = _parents(pixels, rings)
    for index, parent in parents.items():
        holes.setdefault(_outer(parent, parents), []).append(simplified(rings[index], tolerance)[::-1])
    return [
        _joined(simplified(ring, tolerance), holes.get(index, []))
        for index, ring in enumerate(rings)
        if index not in parents
    ]


def simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Fewer corners of a closed ring: each one left out lies within `tolerance` of the edge in its place.

    Args:
        ring: `(n, 2)` x, y.
        tolerance: pixels; 0 keeps every corner.

    Returns:
        `(m, 2)`, three corners or more that enclose something; the ring itself where it would be less.
    """
    if tolerance <= 0:
        return ring
    far = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    kept[[0, far, -1]] = True
    pending = [(0, far), (far, len(ring))]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        at = int(distances.argmax())
        if distances[at] > tolerance:
            split = first + 1 + at
            kept[split] = True
            pending += [(first, split), (split, last)]
    fewer = closed[:-1][kept[:-1]]
    return fewer if len(fewer) >= 3 and _area(fewer) > 0 else ring


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of points to the line from `start` to `end`, its ends included."""
    along = end - start
    share = ((points - start) @ along / max(float(along @ along), 1e-12)).clip(0, 1)
    distances: np.ndarray = np.linalg.norm(points - start - share[:, None] * along, axis=1)
    return distances


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _rings(pixels: np.ndarray) -> list[np.ndarray]:
    """All closed outlines `(n, 2)`, outer ones and holes; each begins at its upper left corner and goes right.

    On every line of the pixel grid the corners of the outlines, in order, are begin and end of an edge in turn. Where
    two pixels touch only at a corner, two corners share a place; each one turns round its own pixel.
    """
    around = np.pad(pixels, 1).astype(np.int8)
    upper_left, upper_right = around[:-1, :-1], around[:-1, 1:]
    lower_left, lower_right = around[1:, :-1], around[1:, 1:]
    count = upper_left + upper_right + lower_left + lower_right
    touching = (count == 2) & (upper_left == lower_right)
    repeats = np.where(touching, 2, count % 2)
    y, x = np.repeat(np.argwhere(repeats), repeats[repeats > 0], axis=0).T
    if not len(x):
        return []
    second = np.zeros(
        len(x), dtype=bool
    )  # of the two corners in one place: the one whose edge along the row goes right
    second[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    goes_down = second == (lower_right[y, x] == 1)  # of a pair: the corner whose edge along the column goes down
    down_order = np.lexsort((goes_down, y, x))
    across, down = np.empty((2, len(x)), dtype=np.int64)
    across[0::2], across[1::2] = np.arange(1, len(x), 2), np.arange(0, len(x), 2)
    down[down_order[0::2]], down[down_order[1::2]] = down_order[1::2], down_order[0::2]
    return [np.stack([x[ring], y[ring]], axis=1) for ring in _cycles(across.tolist(), down.tolist())]


def _cycles(across: list[int], down: list[int]) -> list[list[int]]:
    """Walk along an edge of a row, then along one of a column, until the start is reached again."""
    seen = bytearray(len(across))
    cycles = []
    for start in range(len(across)):
        if seen[start]:
            continue
        ring, at = [], start
        while not seen[at]:
            other = across[at]
            seen[at] = seen[other] = 1
            ring += [at, other]
            at = down[other]
        cycles.append(ring)
    return cycles


def _parents(pixels: np.ndarray, rings: list[np.ndarray]) -> dict[int, int]:
    """Of every hole, the ring that bounds the run of pixels to the left of the hole's upper left corner."""
    holes = [index for index, ring in enumerate(rings) if not pixels[ring[0, 1], ring[0, 0]]]
    if not holes:
        return {}
    starts = np.concatenate([ring[1::2] for ring in rings])  # edges along columns begin at every second corner
    ends = np.concatenate([np.roll(ring[0::2], -1, axis=0) for ring in rings])
    owners = np.repeat(np.arange(len(rings)), [len(ring) // 2 for ring in rings])
    tops, bottoms = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    parents = {}
    for hole in holes:
        x, y = rings[hole][0]
        outside = np.flatnonzero(~pixels[y, :x])
        left = outside[-1] + 1 if len(outside) else 0
        parents[hole] = int(owners[(starts[:, 0] == left) & (tops <= y) & (y < bottoms)][0])
    return parents


def _outer(parent: int, parents: dict[int, int]) -> int:
    """The outer ring that a hole lies in; holes on the way begin above or to the left, so that the way ends."""
    while parent in parents:
        parent = parents[parent]
    return parent


def _joined(ring: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """One polygon of a ring and the holes in it: from the nearest corner to each hole, round it, and back."""
    if not holes:
        return ring
    ways: dict[int, list[np.ndarray]] = {}
    for hole in holes:
        nearest = int(np.linalg.norm(ring - hole[0], axis=1).argmin())
        ways.setdefault(nearest, []).append(hole)
    parts = []
    for index, corner in enumerate(ring):
        parts.append(corner[None])
        for hole in ways.get(index, []):
            parts += [hole, hole[:1], corner[None]]
    return np.concatenate(parts)
