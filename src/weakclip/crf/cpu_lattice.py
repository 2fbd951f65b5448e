"""The permutohedral lattice of one image, compiled by numba: which vertices there are, and how they are linked.

Each pixel lies in a simplex of d + 1 vertices and is written to them with barycentric weights (splat); vertices are
blurred with (½, 1, ½) along each of the d + 1 lattice axes; and pixels are read back with the same weights (slice).
Arithmetic is float32 in the order of the original implementation, since rounding decides a pixel's simplex.

References:
    Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weakclip.crf.features import key_strides, lattice_scale, neighbour_steps
from weakclip.crf.simd import jit

_EMPTY = np.int32(-1)
_HASH = np.int64(-7046029254386353131)  # 2⁶⁴ / golden ratio, odd, as a signed number


@dataclass(frozen=True)
class Lattice:
    """The lattice of N pixels: V vertices, and the chains along which they are blurred.

    Args:
        vertices: `(N, d+1)` int32, the vertices of each pixel's simplex.
        weights: `(N, d+1)` float32, its barycentric coordinates.
        num_vertices: V.
        chain_vertices: `(·,)` int32, runs of vertices that follow each other along an axis; axis after axis.
            A vertex without a neighbour along an axis is in no run of that axis: the blur leaves it as it is.
        chain_starts: `(C+1,)` int64, where each of the C runs starts in `chain_vertices`.
    """

    vertices: np.ndarray
    weights: np.ndarray
    num_vertices: int
    chain_vertices: np.ndarray
    chain_starts: np.ndarray


def build_lattice(features: np.ndarray, spans: list[float]) -> Lattice:
    """Find the lattice of `features`, `(N, d)` float32 in standard deviations, from 0 to `spans`."""
    strides = key_strides(spans)
    vertices, weights, codes, table = _embed(features, lattice_scale(features.shape[1]), strides)
    chain_vertices, chain_starts = _chains(codes, table, neighbour_steps(strides))
    return Lattice(vertices, weights, len(codes), chain_vertices, chain_starts)


@jit
def _slot(table: Any, codes: Any, code: Any) -> Any:
    """Where in the open-addressing `table` the vertex of this code is, or would be put."""
    mask = len(table) - 1
    slot = ((code * _HASH) >> 29) & mask
    while table[slot] != _EMPTY and codes[table[slot]] != code:
        slot = (slot + 1) & mask
    return slot


@jit
def _twice_as_large(table: Any, codes: Any, count: Any) -> Any:
    larger = np.full(2 * len(table), _EMPTY, np.int32)
    for vertex in range(count):
        larger[_slot(larger, codes, codes[vertex])] = vertex
    return larger


@jit
def _elevate(feature: Any, scale: Any, elevated: Any) -> None:
    """Project d features onto the plane of d + 1 coordinates that sum to zero."""
    total = np.float32(0.0)
    for j in range(len(scale), 0, -1):
        scaled = feature[j - 1] * scale[j - 1]
        elevated[j] = total - np.float32(j) * scaled
        total += scaled
    elevated[0] = total


@jit
def _find_simplex(elevated: Any, origin: Any, rank: Any) -> None:
    """The simplex around a point: its vertex of remainder 0, and the order of the coordinates' distances from it."""
    size = len(elevated)
    excess = 0
    for i in range(size):
        nearest = np.rint(elevated[i] * (np.float32(1.0) / np.float32(size)))
        origin[i] = nearest * np.float32(size)
        excess += int(nearest)
        rank[i] = 0
    for i in range(size - 1):
        distance = elevated[i] - origin[i]
        for j in range(i + 1, size):
            if distance < elevated[j] - origin[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    for i in range(size):  # a rounded point off the plane is brought back
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += size
            origin[i] += np.float32(size)
        elif rank[i] >= size:
            rank[i] -= size
            origin[i] -= np.float32(size)


@jit
def _barycentric(elevated: Any, origin: Any, rank: Any, weights: Any) -> None:
    size = len(elevated)
    last = np.float32(0.0)
    weights[:] = np.float32(0.0)
    for i in range(size):
        share = (elevated[i] - origin[i]) * (np.float32(1.0) / np.float32(size))
        position = size - 1 - rank[i]
        weights[position] += share
        if position + 1 < size:
            weights[position + 1] -= share
        else:
            last -= share
    weights[0] += np.float32(1.0) + last


@jit
def _embed(features: Any, scale: Any, strides: Any) -> Any:
    """Vertices and weights of each pixel; the code of each vertex, in order of first touch; the hash table."""
    num_pixels, dimensions = features.shape
    size = dimensions + 1
    vertices = np.empty((num_pixels, size), np.int32)
    weights = np.empty((num_pixels, size), np.float32)
    codes = np.empty(num_pixels * size, np.int64)
    table = np.full(1 << 12, _EMPTY, np.int32)
    elevated, origin = np.empty(size, np.float32), np.empty(size, np.float32)
    rank = np.empty(size, np.int64)
    count = 0
    for pixel in range(num_pixels):
        _elevate(features[pixel], scale, elevated)
        _find_simplex(elevated, origin, rank)
        _barycentric(elevated, origin, rank, weights[pixel])
        for remainder in range(size):
            code = np.int64(0)
            for i in range(dimensions):
                step = remainder if rank[i] < size - remainder else remainder - size
                code += (np.int64(origin[i]) + step) * strides[i]
            if pixel > 0 and codes[vertices[pixel - 1, remainder]] == code:  # often in the same simplex
                vertices[pixel, remainder] = vertices[pixel - 1, remainder]
                continue
            slot = _slot(table, codes, code)
            if table[slot] == _EMPTY:
                codes[count] = code
                table[slot] = count
                vertices[pixel, remainder] = count
                count += 1
                if 2 * count > len(table):
                    table = _twice_as_large(table, codes, count)
            else:
                vertices[pixel, remainder] = table[slot]
    return vertices, weights, codes[:count].copy(), table


@jit
def _chains(codes: Any, table: Any, steps: Any) -> Any:
    """All runs of two and more neighbouring vertices, axis after axis."""
    num_vertices, num_axes = len(codes), len(steps)
    chain_vertices = np.empty(num_axes * num_vertices, np.int32)
    chain_starts = np.empty(num_axes * (num_vertices // 2) + 1, np.int64)
    following = np.empty(num_vertices, np.int32)
    has_previous = np.empty(num_vertices, np.bool_)
    length, chains = 0, 0
    for axis in range(num_axes):
        has_previous[:] = False
        for vertex in range(num_vertices):
            found = table[_slot(table, codes, codes[vertex] + steps[axis])]
            following[vertex] = found
            if found != _EMPTY:
                has_previous[found] = True
        for vertex in range(num_vertices):
            if has_previous[vertex] or following[vertex] == _EMPTY:
                continue
            chain_starts[chains] = length
            chains += 1
            current = np.int64(vertex)
            while current != _EMPTY:
                chain_vertices[length] = current
                length += 1
                current = np.int64(following[current])
    chain_starts[chains] = length
    return chain_vertices[:length].copy(), chain_starts[: chains + 1].copy()
