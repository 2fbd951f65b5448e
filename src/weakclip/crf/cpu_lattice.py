"""The permutohedral lattice of one image, compiled by numba: which vertices there are, and how they are linked.

Each pixel lies in a simplex of d + 1 vertices and is written to them with barycentric weights (splat); vertices are
blurred with (½, 1, ½) along each of the d + 1 lattice axes; and pixels are read back with the same weights (slice).
Arithmetic is float32 in the order of the original implementation, since rounding decides a pixel's simplex.

References:
    Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weakclip.crf.features import has_phantom, key_strides, lattice_scale, neighbour_steps
from weakclip.crf.simd import (
    add,
    broadcast,
    constant,
    item,
    jit,
    less,
    load,
    multiply,
    nearest,
    put,
    size_of,
    store,
    subtract,
)
from weakclip.crf.workspace import workspace

_NONE = np.int64(-(2**63))  # no vertex has this code
_HASH = np.int64(-7046029254386353131)  # 2⁶⁴ / golden ratio, odd, as a signed number
BLOCK = 8
"""Pixels that are embedded at once; features are padded to a multiple of it."""
_BLOCK = size_of(BLOCK)


@dataclass(frozen=True)
class Lattice:
    """The vertices of a lattice as the blur sees them.

    Args:
        num_vertices: V.
        chain_vertices: `(·,)` int32, runs of vertices that follow each other along an axis; axis after axis, and
            for each axis by ascending length. A vertex without a neighbour along an axis is in no run of that axis:
            the blur leaves it as it is.
        chain_groups: `(G, 2)` int64, `(length, number of runs)` for the runs of equal length that follow each other.
    """

    num_vertices: int
    chain_vertices: np.ndarray
    chain_groups: np.ndarray


@dataclass(frozen=True)
class Terms:
    """The vertices to which a pixel is written and from which it is read, over all kernels.

    Args:
        vertices: `(N, terms)` int32, numbered through all lattices.
        weights: `(N, terms)` float32.
    """

    vertices: np.ndarray
    weights: np.ndarray


def build_lattice(
    features: np.ndarray, spans: list[float], terms: Terms, column: int, first_vertex: int
) -> tuple[Lattice, np.ndarray]:
    """Find the lattice of N points.

    Args:
        features: `(d, N padded to BLOCK)` float32 in standard deviations, from 0 to `spans`.
        spans: d largest values.
        terms: filled from `column` on with the d + 1 vertices of each point's simplex and the barycentric coordinates.
        column: which of the terms are this lattice's.
        first_vertex: added to the vertices' numbers in `terms`.

    Returns:
        The lattice, and `(V,)` float32: the sum of the weights at each vertex.
    """
    (num_points, num_terms), size = terms.vertices.shape, len(spans) + 1
    strides, scale = key_strides(spans), lattice_scale(len(spans))
    codes = workspace.take("codes", (num_points * size,), np.int64)
    ones = workspace.take("ones", (num_points * size,), np.float32)
    slots = 1 << max(12, (num_points - 1).bit_length())
    all_points = num_points + has_phantom(num_points)
    start = count = 0
    while True:
        keys, ids = workspace.take("keys", (slots,), np.int64), workspace.take("ids", (slots,), np.int32)
        _fill_table(codes, count, keys, ids)
        start, count = _embed(
            features, num_points, all_points, scale, strides, start, count, terms.vertices.ravel(),
            terms.weights.ravel(), num_terms, column, first_vertex, codes, ones, keys, ids, size_of(size),
        )  # fmt: skip
        if start >= all_points:
            break
        slots *= 2
    links = workspace.take("links", (3, count + 1), np.int32)
    chain_vertices = workspace.take("chains", (size * count,), np.int32)
    total, groups = _chains(codes[:count], keys, ids, neighbour_steps(strides), links, chain_vertices)
    return Lattice(count, chain_vertices[:total].copy(), groups), ones[:count]


@jit
def _slot(keys: Any, code: Any) -> Any:
    """Where in the open-addressing table `keys` this code is, or would be put."""
    mask = len(keys) - 1
    slot = ((code * _HASH) >> 29) & mask
    while True:
        found = item(keys, slot)
        if found == code or found == _NONE:  # noqa: PLR1714, SIM109  (compiled: a tuple costs more)
            return slot
        slot = (slot + 1) & mask


@jit
def _fill_table(codes: Any, count: Any, keys: Any, ids: Any) -> None:
    """Make a table of the first `count` codes: the code in each slot, and the vertex that it stands for."""
    keys[:] = _NONE
    for vertex in range(count):
        slot = _slot(keys, codes[vertex])
        keys[slot], ids[slot] = codes[vertex], vertex


@jit
def _embed_block(
    features: Any, padded: Any, start: Any, scale: Any, elevated: Any, origins: Any, ranks: Any, shares: Any,
    sides: Any,
) -> None:  # fmt: skip
    """The simplices of BLOCK pixels from `start` on. Every result is `((d+1) · BLOCK,)` float32.

    `origins`: the simplex's vertex of remainder 0. `shares`: the point's distance from it in sides of a simplex.
    `ranks`: the order of the distances.
    """
    size = constant(sides)
    zero, one = broadcast(np.float32(0.0), _BLOCK), broadcast(np.float32(1.0), _BLOCK)
    side, per_side = broadcast(np.float32(size), _BLOCK), broadcast(np.float32(1.0) / np.float32(size), _BLOCK)
    total, excess = zero, zero
    for j in range(size - 1, 0, -1):  # onto the plane of d + 1 coordinates that sum to zero
        scaled = multiply(load(features, (j - 1) * padded + start, _BLOCK), broadcast(scale[j - 1], _BLOCK))
        store(elevated, j * BLOCK, subtract(total, multiply(broadcast(np.float32(j), _BLOCK), scaled)))
        total = add(total, scaled)
    store(elevated, 0, total)
    for i in range(size):
        point = load(elevated, i * BLOCK, _BLOCK)
        whole = nearest(multiply(point, per_side))
        excess = add(excess, whole)
        store(origins, i * BLOCK, multiply(whole, side))
        store(shares, i * BLOCK, subtract(point, multiply(whole, side)))
    for i in range(size):
        rank, distance = excess, load(shares, i * BLOCK, _BLOCK)
        for j in range(i):  # of two equal ones, the later ranks higher
            rank = add(rank, subtract(one, less(load(shares, j * BLOCK, _BLOCK), distance)))
        for j in range(i + 1, size):
            rank = add(rank, less(distance, load(shares, j * BLOCK, _BLOCK)))
        wrap = subtract(
            less(rank, zero), less(subtract(side, one), rank)
        )  # a rounded point off the plane is brought back
        store(ranks, i * BLOCK, add(rank, multiply(wrap, side)))
        store(origins, i * BLOCK, add(load(origins, i * BLOCK, _BLOCK), multiply(wrap, side)))
    for i in range(size):
        distance = subtract(load(elevated, i * BLOCK, _BLOCK), load(origins, i * BLOCK, _BLOCK))
        store(shares, i * BLOCK, multiply(distance, per_side))


@jit
def _embed(
    features: Any, num_pixels: Any, all_pixels: Any, scale: Any, strides: Any, start: Any, count: Any, vertices: Any,
    weights: Any, num_terms: Any, column: Any, first_vertex: Any, codes: Any, ones: Any, keys: Any, ids: Any,
    sides: Any,
) -> Any:  # fmt: skip
    """Embed from pixel `start` on, `count` vertices being known, until the table is three fifths full or all is done.

    Returns the next `start` and `count`.
    """
    size, padded = constant(sides), features.shape[1]
    flat = features.ravel()
    elevated, origins = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.float32)
    ranks, shares = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.float32)
    share_at, move_at, moves = np.empty(size, np.float32), np.empty(size, np.int64), np.empty(size, np.int64)
    for i in range(size):  # from the vertex of one remainder to the next: by one along all axes, back along one
        moves[i] = strides[: size - 1].sum() - (size * strides[i] if i + 1 < size else 0)
    while start < all_pixels and 5 * (count + size * BLOCK) <= 3 * len(keys):
        _embed_block(flat, padded, start, scale, elevated, origins, ranks, shares, sides)
        for pixel in range(start, min(start + BLOCK, all_pixels)):
            code = np.int64(0)
            for i in range(size):
                lane = i * BLOCK + pixel - start
                rank = np.intp(item(ranks, lane))
                put(share_at, rank, item(shares, lane))
                put(move_at, rank, item(moves, i))
                if i + 1 < size:
                    code += np.int64(item(origins, lane)) * item(strides, i)
            for r in range(size):
                if r == 0:
                    weight = item(share_at, size - 1) + (np.float32(1.0) - item(share_at, 0))
                else:
                    weight = item(share_at, size - 1 - r) - item(share_at, size - r)
                    code += item(move_at, size - r)
                slot = _slot(keys, code)
                vertex = np.intp(item(ids, slot))
                if item(keys, slot) == _NONE:
                    vertex = count
                    put(codes, vertex, code)
                    put(ones, vertex, np.float32(0.0))
                    put(keys, slot, code)
                    put(ids, slot, np.int32(vertex))
                    count += 1
                if pixel == num_pixels:  # the phantom: its vertices are there, and empty
                    continue
                put(ones, vertex, item(ones, vertex) + weight)
                put(vertices, pixel * num_terms + column + r, np.int32(first_vertex + vertex))
                put(weights, pixel * num_terms + column + r, weight)
        start += BLOCK
    return start, count


@jit
def _chains(codes: Any, keys: Any, ids: Any, steps: Any, links: Any, chain_vertices: Any) -> Any:
    """All runs of two and more neighbouring vertices, axis after axis, for each axis sorted by length.

    `links` is `(3, V+1)` int32 to work in. Returns how much of `chain_vertices` was filled, and the groups.
    """
    num_vertices, num_axes = len(codes), len(steps)
    groups = np.empty((num_axes * (2 + int(np.sqrt(2.0 * num_vertices))), 2), np.int64)
    following, heads, run = links[0], links[1], links[2]
    has_previous = np.empty(num_vertices + 1, np.uint8)  # the last one is for those without a next
    places = np.zeros(num_vertices + 2, np.int64)
    total, num_groups = 0, 0
    for axis in range(num_axes):
        has_previous[:] = 0
        for vertex in range(num_vertices):
            slot = _slot(keys, item(codes, vertex) + steps[axis])
            found = item(ids, slot) if item(keys, slot) != _NONE else np.int32(num_vertices)
            put(following, vertex, found)
            put(has_previous, np.intp(found), np.uint8(1))
        chains = 0
        for vertex in range(num_vertices):
            put(heads, chains, np.int32(vertex))
            chains += int(item(following, vertex) < num_vertices) & int(1 - item(has_previous, vertex))
        length, longest = 0, 0
        for chain in range(chains):
            current, start = np.intp(item(heads, chain)), length
            while current < num_vertices:
                put(run, length, np.int32(current))
                length += 1
                current = np.intp(item(following, current))
            put(heads, chain, np.int32(length - start))
            places[length - start] += 1
            longest = max(longest, length - start)
        place = total
        for span in range(2, longest + 1):
            number = places[span]
            if number > 0:
                groups[num_groups] = span, number
                num_groups += 1
            places[span] = place
            place += span * number
        source = 0
        for chain in range(chains):
            span = int(item(heads, chain))
            place = item(places, span)
            put(places, span, place + span)
            for position in range(span):
                put(chain_vertices, place + position, item(run, source + position))
            source += span
        places[: longest + 1] = 0
        total += length
    return total, groups[:num_groups].copy()
