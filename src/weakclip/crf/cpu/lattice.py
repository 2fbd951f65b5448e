"""The permutohedral lattice of one image, compiled by numba: which vertices there are, and how they are linked.

Each pixel lies in a simplex of d + 1 vertices and is written to them with barycentric weights (splat); vertices are
blurred with (½, 1, ½) along each of the d + 1 lattice axes; and pixels are read back with the same weights (slice).
Arithmetic is float32 in the order of the original implementation, since rounding decides a pixel's simplex.

References:
    Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from weakclip.crf.cpu.chains import HASH, HASH_SHIFT, fill_table, find_chains, find_slot
from weakclip.crf.cpu.filter import blur
from weakclip.crf.cpu.jit import inner_jit, jit
from weakclip.crf.cpu.rows import normalise
from weakclip.crf.cpu.simd import broadcast, constant, item, load, put, size_of, store
from weakclip.crf.cpu.vector_math import (
    add,
    bits_and,
    multiply,
    nearest,
    shift_right,
    subtract,
    where_equal,
    where_less,
    whole,
)
from weakclip.crf.cpu.workspace import workspace
from weakclip.crf.features import has_phantom, key_strides, lattice_scale, neighbour_steps

_LINK_BYTES = 29  # a vertex: its code, and what the chains are found with
_SPARE_BYTES = 64
BLOCK = 8
"""Pixels that are embedded at once; features are padded to a multiple of it."""
_BLOCK, _1 = size_of(BLOCK), size_of(1)


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
        offsets: `(N, terms)` uint32, where in the table of all lattices' values a vertex begins.
        weights: `(N, terms)` float32.
    """

    offsets: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=64)
def _axes(spans: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale of the features, strides of the codes, and the steps to a vertex's neighbours."""
    strides = key_strides(spans)
    return lattice_scale(len(spans)), strides, neighbour_steps(strides)


@dataclass(frozen=True)
class Place:
    """Where among all kernels' terms and vertices those of one kernel are.

    Args:
        column: its first term.
        first_vertex: its first vertex in the table of values.
        width: floats that a vertex has in that table.
        strength: √strength is in the weights.
    """

    column: int
    first_vertex: int
    width: int
    strength: float


def build_lattice(features: np.ndarray, spans: tuple[float, ...], terms: Terms, place: Place) -> Lattice:
    """Find the lattice of N points; it lies in the thread's workspace.

    Args:
        features: `(d, N padded to BLOCK)` float32 in standard deviations.
        spans: range of each of the d features.
        terms: filled, from `place.column` on, with the d + 1 vertices of each point's simplex as offsets in the table,
            and with their weights: barycentric coordinates times `√(strength / norm)`, norm being the filter's
            response to ones.
        place: where they go.

    Returns:
        The lattice.
    """
    (num_points, num_terms), size = terms.offsets.shape, len(spans) + 1
    all_points = num_points + has_phantom(num_points)
    most = all_points * size
    memory = workspace.take("second", (-(-_LINK_BYTES * most // 8) * 8 + _SPARE_BYTES,), np.uint8)
    name = f"chains {place.column} of {num_terms}"  # not those of another kernel of the image, or of a kept one
    chain_vertices = workspace.take(name, (size * most,), np.int32)  # touched only as far as it is needed
    groups = workspace.take("groups", (size * (2 + math.isqrt(2 * most)), 2), np.int64)
    count, length, num_groups = _build(
        features.ravel(), features.shape[1], num_points, all_points, *_axes(spans),
        terms.offsets.ravel(), terms.weights.ravel(), num_terms,
        place.column, place.first_vertex, place.width, np.float32(place.strength),
        memory.view(np.int64), memory.view(np.int32), memory, workspace.take("ones", (most,), np.float32),
        workspace.take("table", (1 << max(12, (num_points - 1).bit_length()),), np.int32),
        chain_vertices, groups, size_of(size),
    )  # fmt: skip
    return Lattice(count, chain_vertices[:length], groups[:num_groups].copy())


@jit
def _build(
    features: Any, padded: Any, num_points: Any, all_points: Any, scale: Any, strides: Any, steps: Any,
    vertices: Any, weights: Any, num_terms: Any, column: Any, first_vertex: Any, width: Any, strength: Any,
    codes: Any, links: Any, memory: Any, ones: Any, table: Any, chain_vertices: Any, groups: Any, sides: Any,
) -> Any:  # fmt: skip
    """As `build_lattice`; returns the numbers of vertices, of entries of `chain_vertices` and of groups."""
    fill_table(table, codes, 0)
    start, count = np.int64(0), np.int64(0)
    while True:
        start, count = _embed(
            features, padded, num_points, all_points, scale, strides, start, count,
            vertices, weights, num_terms, column, codes, ones, table, sides,
        )  # fmt: skip
        if start >= all_points:
            break
        table = np.empty(2 * len(table), np.int32)
        fill_table(table, codes, count)
    length, num_groups = find_chains(codes, links, memory, count, table, steps, chain_vertices, groups)
    blur(ones, 0, chain_vertices, groups[:num_groups], _1, 1)
    normalise(ones, vertices, weights, column, num_terms, sides, first_vertex, width, strength)
    return count, length, num_groups


@inner_jit
def _embed_block(
    features: Any, padded: Any, start: Any, scale: Any, points: Any, origins: Any, ranks: Any, sides: Any
) -> None:
    """The simplices of BLOCK pixels from `start` on. Every result is `((d+1) · BLOCK,)` float32.

    `origins`: the simplex's vertex of remainder 0. `points`: the point's distance from it in sides of a simplex.
    `ranks`: the order of the distances.
    """
    size = constant(sides)
    zero, one = broadcast(np.float32(0.0), _BLOCK), broadcast(np.float32(1.0), _BLOCK)
    side, per_side = broadcast(np.float32(size), _BLOCK), broadcast(np.float32(1.0) / np.float32(size), _BLOCK)
    total, excess = zero, zero
    for j in range(size - 1, 0, -1):  # onto the plane of d + 1 coordinates that sum to zero
        scaled = multiply(load(features, (j - 1) * padded + start, _BLOCK), broadcast(scale[j - 1], _BLOCK))
        store(points, j * BLOCK, subtract(total, multiply(broadcast(np.float32(j), _BLOCK), scaled)))
        total = add(total, scaled)
    store(points, 0, total)
    for i in range(size):
        whole_sides = nearest(multiply(load(points, i * BLOCK, _BLOCK), per_side))
        excess = add(excess, whole_sides)
        store(origins, i * BLOCK, multiply(whole_sides, side))
    for i in range(size):
        rank, distance = excess, subtract(load(points, i * BLOCK, _BLOCK), load(origins, i * BLOCK, _BLOCK))
        for j in range(size):
            other = subtract(load(points, j * BLOCK, _BLOCK), load(origins, j * BLOCK, _BLOCK))
            if j < i:  # of two equal ones, the later ranks higher
                rank = add(rank, where_less(other, distance, zero, one))
            elif j > i:
                rank = add(rank, where_less(distance, other, one, zero))
        store(ranks, i * BLOCK, rank)
    for i in range(size):
        rank, last = load(ranks, i * BLOCK, _BLOCK), subtract(side, one)
        wrap = where_less(rank, zero, side, where_less(last, rank, subtract(zero, side), zero))  # back onto the plane
        origin = add(load(origins, i * BLOCK, _BLOCK), wrap)
        store(ranks, i * BLOCK, add(rank, wrap))
        store(origins, i * BLOCK, origin)
        store(points, i * BLOCK, multiply(subtract(load(points, i * BLOCK, _BLOCK), origin), per_side))


@inner_jit
def _vertices_of_block(
    points: Any, origins: Any, ranks: Any, strides: Any, table: Any, codes: Any, slots: Any, weights: Any, sides: Any
) -> None:
    """Of what `_embed_block` found: the vertices' codes and places in the table, int64, and the weights, float32.

    All are `((d+1) · BLOCK,)`, remainder after remainder.
    """
    size, zero = constant(sides), broadcast(np.float32(0.0), _BLOCK)
    code, all_strides = broadcast(np.int64(0), _BLOCK), np.int64(0)
    for i in range(size - 1):
        all_strides += item(strides, i)
        stride = broadcast(item(strides, i), _BLOCK)
        code = add(code, multiply(whole(load(origins, i * BLOCK, _BLOCK)), stride))
    mask, shift = broadcast(np.int64(len(table) - 1), _BLOCK), broadcast(HASH_SHIFT, _BLOCK)
    first, previous = zero, zero
    for r in range(size):  # from the vertex of one remainder to the next: by one along all axes, back along one
        rank, ranked = broadcast(np.float32(size - 1 - r), _BLOCK), zero
        move = broadcast(np.int64(0), _BLOCK)
        for i in range(size):
            one = all_strides - (size * item(strides, i) if i + 1 < size else 0)
            ranked = where_equal(load(ranks, i * BLOCK, _BLOCK), rank, load(points, i * BLOCK, _BLOCK), ranked)
            move = where_equal(load(ranks, i * BLOCK, _BLOCK), rank, broadcast(one, _BLOCK), move)
        store(codes, r * BLOCK, code)
        hashed = shift_right(multiply(code, broadcast(HASH, _BLOCK)), shift)
        store(slots, r * BLOCK, bits_and(hashed, mask))
        if r == 0:
            first = ranked
        else:
            store(weights, r * BLOCK, subtract(ranked, previous))
        code, previous = add(code, move), ranked
    store(weights, 0, add(first, subtract(broadcast(np.float32(1.0), _BLOCK), previous)))


@inner_jit
def _embed(
    features: Any, padded: Any, num_pixels: Any, all_pixels: Any, scale: Any, strides: Any, start: Any, count: Any,
    vertices: Any, weights: Any, num_terms: Any, column: Any, codes: Any, ones: Any, table: Any, sides: Any,
) -> Any:  # fmt: skip
    """Embed from pixel `start` on, `count` vertices being known, until the table is three fifths full or all is done.

    Returns the next `start` and `count`.
    """
    size = constant(sides)
    points, origins = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.float32)
    ranks, shares = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.float32)
    block_codes, slots = np.empty(size * BLOCK, np.int64), np.empty(size * BLOCK, np.int64)
    while start < all_pixels and 5 * (count + size * BLOCK) <= 3 * len(table):
        _embed_block(features, padded, start, scale, points, origins, ranks, sides)
        _vertices_of_block(points, origins, ranks, strides, table, block_codes, slots, shares, sides)
        for pixel in range(start, min(start + BLOCK, all_pixels)):
            for r in range(size):
                lane = r * BLOCK + pixel - start
                code = item(block_codes, lane)
                slot = find_slot(table, codes, code, item(slots, lane))
                vertex = np.intp(item(table, slot))
                if vertex < 0:
                    vertex = count
                    put(codes, vertex, code)
                    put(ones, vertex, np.float32(0.0))
                    put(table, slot, np.int32(vertex))
                    count += 1
                if pixel == num_pixels:  # the phantom: its vertices are there, and empty
                    continue
                weight = item(shares, lane)
                put(ones, vertex, item(ones, vertex) + weight)
                put(vertices, pixel * num_terms + column + r, np.uint32(vertex))
                put(weights, pixel * num_terms + column + r, weight)
        start += BLOCK
    return start, count
