"""The permutohedral lattice of one image, compiled by numba: its vertices, and how they are linked.

Each pixel lies in a simplex of d + 1 vertices. It is written to them with barycentric weights (splat). The vertices are
blurred with (½, 1, ½) along each of the d + 1 lattice axes. The pixel is read back with the same weights (slice).
A vertex has d + 1 whole coordinates that sum to zero and leave the same remainder modulo d + 1. A simplex has one
vertex of each remainder.
Arithmetic is float32 in the order of the original implementation, since rounding decides a pixel's simplex.

References:
    Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)
from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from weakclip.crf.cpu.chains import HASH, HASH_SHIFT, fill_table, find_chains, find_slot
from weakclip.crf.cpu.filter import blur
from weakclip.crf.cpu.jit import inner_jit, jit
from weakclip.crf.cpu.rows import normalise
from weakclip.crf.cpu.simd import broadcast, constant, item, load, put, size_of, store
from weakclip.crf.cpu.structures import F32, I32, I64, Axes, Block, Int, Lattice, Points, Size, Target, Vertices
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

BLOCK = 8
"""Pixels that are embedded at once; features are padded to a multiple of it."""
_BLOCK, _1 = size_of(BLOCK), size_of(1)
_NO_COLUMNS = np.empty((0, 2), np.int64)


@lru_cache(maxsize=64)
def _axes(spans: tuple[float, ...]) -> Axes:
    strides = key_strides(spans)
    return Axes(lattice_scale(len(spans)), strides, neighbour_steps(strides))


def build_lattice(features: F32, spans: tuple[float, ...], target: Target, codes: I64 | None = None) -> Lattice:
    """Find the lattice of N points; its chains lie in the thread's workspace.

    Args:
        features: `(d, N padded to BLOCK)` in standard deviations.
        spans: range of each of the d features.
        target: gets, from its column on, the d + 1 vertices of each point's simplex as offsets in the table of values,
            and their weights: barycentric coordinates times `√(strength / norm)`, norm being the filter's response
            to ones.
        codes: `((d + 1) · (N + 1),)`, gets each vertex's code where somebody asks for it.

    Returns:
        The lattice.
    """
    num_pixels, size = len(target.offsets) // target.num_terms, len(spans) + 1
    num_points = num_pixels + has_phantom(num_pixels)
    most = num_points * size
    vertices = Vertices(
        workspace.take("codes", (most,), np.int64, instead_of="next values") if codes is None else codes,
        workspace.take("ones", (most,), np.float32),
        workspace.take("table", (1 << max(12, (num_pixels - 1).bit_length()),), np.int32),
    )
    name = f"chains {target.column} of {target.num_terms}"  # those of the image's other kernels stay valid
    chain_vertices = workspace.take(name, (size * most,), np.int32)  # touched only as far as it is needed
    chain_groups = workspace.take("groups", (size * (2 + math.isqrt(2 * most)), 2), np.int64)
    points = Points(features.ravel(), features.shape[1], num_pixels, num_points)
    groups = (tuple(points), tuple(_axes(spans)), tuple(target), tuple(vertices))
    count, length, num_groups = _build(*groups, chain_vertices, chain_groups, size_of(size))
    return Lattice(count, target.first_vertex, chain_vertices[:length], chain_groups[:num_groups].copy(), _NO_COLUMNS)


@jit
def _build(
    points: Points, axes: Axes, target: Target, vertices: Vertices, chain_vertices: I32, chain_groups: I64, sides: Size
) -> tuple[Int, Int, Int]:
    """As `build_lattice`; returns the numbers of vertices, of entries of `chain_vertices` and of groups."""
    # From Python they come as plain tuples, without names.
    given, lattice_axes, to, found = Points(*points), Axes(*axes), Target(*target), Vertices(*vertices)
    codes, ones, table = found
    fill_table(table, codes, np.intp(0))
    start, count = np.int64(0), np.int64(0)
    while True:
        start, count = _embed(given, lattice_axes, to, Vertices(codes, ones, table), start, count, sides)
        if start >= given.num_points:
            break
        table = np.empty(2 * len(table), np.int32)
        fill_table(table, codes, count)
    length, num_groups = find_chains(codes, table, count, lattice_axes.steps, chain_vertices, chain_groups)
    # A filter of ones gives the norm: they were splatted while the pixels were embedded, and `normalise` slices them.
    blur(ones, Lattice(count, 0, chain_vertices, chain_groups[:num_groups], chain_groups[:0]), _1, 1)
    normalise(ones, to, sides)
    return count, length, num_groups


@inner_jit
def _embed_block(points: Points, scale: F32, start: Int, block: Block, sides: Size) -> None:
    """The simplices of BLOCK pixels from `start` on: fill the block's `points`, `origins` and `ranks`."""
    features, padded = points.features, points.padded
    distances, origins, ranks = block.points, block.origins, block.ranks
    size = constant(sides)
    zero, one = broadcast(np.float32(0.0), _BLOCK), broadcast(np.float32(1.0), _BLOCK)
    side, per_side = broadcast(np.float32(size), _BLOCK), broadcast(np.float32(1.0) / np.float32(size), _BLOCK)
    total, excess = zero, zero
    for j in range(size - 1, 0, -1):  # onto the plane of d + 1 coordinates that sum to zero
        scaled = multiply(load(features, (j - 1) * padded + start, _BLOCK), broadcast(scale[j - 1], _BLOCK))
        store(distances, j * BLOCK, subtract(total, multiply(broadcast(np.float32(j), _BLOCK), scaled)))
        total = add(total, scaled)
    store(distances, 0, total)
    # The nearest multiples of d + 1 are a vertex of remainder 0 if they sum to zero; `excess` sides too many otherwise.
    for i in range(size):
        whole_sides = nearest(multiply(load(distances, i * BLOCK, _BLOCK), per_side))
        excess = add(excess, whole_sides)
        store(origins, i * BLOCK, multiply(whole_sides, side))
    # The number of coordinates that are further from that vertex.
    for i in range(size):
        rank, distance = excess, subtract(load(distances, i * BLOCK, _BLOCK), load(origins, i * BLOCK, _BLOCK))
        for j in range(size):
            other = subtract(load(distances, j * BLOCK, _BLOCK), load(origins, j * BLOCK, _BLOCK))
            if j < i:  # of two equal ones, the later ranks higher
                rank = add(rank, where_less(other, distance, zero, one))
            elif j > i:
                rank = add(rank, where_less(distance, other, one, zero))
        store(ranks, i * BLOCK, rank)
    # Where the multiples do not sum to zero, those rounded furthest move by one side: their rank is not in 0…d.
    for i in range(size):
        rank, last = load(ranks, i * BLOCK, _BLOCK), subtract(side, one)
        wrap = where_less(rank, zero, side, where_less(last, rank, subtract(zero, side), zero))  # back onto the plane
        origin = add(load(origins, i * BLOCK, _BLOCK), wrap)
        store(ranks, i * BLOCK, add(rank, wrap))
        store(origins, i * BLOCK, origin)
        store(distances, i * BLOCK, multiply(subtract(load(distances, i * BLOCK, _BLOCK), origin), per_side))


@inner_jit
def _vertices_of_block(block: Block, strides: I64, table: I32, sides: Size) -> None:
    """From what `_embed_block` found: fill the block's `codes`, `slots` and `shares`, remainder after remainder."""
    distances, origins, ranks = block.points, block.origins, block.ranks
    codes, slots, shares = block.codes, block.slots, block.shares
    size, zero = constant(sides), broadcast(np.float32(0.0), _BLOCK)
    code, all_strides = broadcast(np.int64(0), _BLOCK), np.int64(0)
    for i in range(size - 1):
        all_strides += item(strides, i)
        stride = broadcast(item(strides, i), _BLOCK)
        code = add(code, multiply(whole(load(origins, i * BLOCK, _BLOCK)), stride))
    # Sorted by rank, the differences of neighbouring distances are the barycentric weights.
    mask, shift = broadcast(np.int64(len(table) - 1), _BLOCK), broadcast(HASH_SHIFT, _BLOCK)
    first, previous = zero, zero
    for r in range(size):  # from the vertex of one remainder to the next: by one along all axes, back along one
        rank, ranked = broadcast(np.float32(size - 1 - r), _BLOCK), zero
        move = broadcast(np.int64(0), _BLOCK)
        for i in range(size):
            one = all_strides - (size * item(strides, i) if i + 1 < size else 0)
            ranked = where_equal(load(ranks, i * BLOCK, _BLOCK), rank, load(distances, i * BLOCK, _BLOCK), ranked)
            move = where_equal(load(ranks, i * BLOCK, _BLOCK), rank, broadcast(one, _BLOCK), move)
        store(codes, r * BLOCK, code)
        hashed = shift_right(multiply(code, broadcast(HASH, _BLOCK)), shift)
        store(slots, r * BLOCK, bits_and(hashed, mask))
        if r == 0:
            first = ranked
        else:
            store(shares, r * BLOCK, subtract(ranked, previous))
        code, previous = add(code, move), ranked
    store(shares, 0, add(first, subtract(broadcast(np.float32(1.0), _BLOCK), previous)))


@inner_jit
def _embed(
    points: Points, axes: Axes, target: Target, vertices: Vertices, start: Int, count: Int, sides: Size
) -> tuple[Int, Int]:
    """Embed from pixel `start` on, `count` vertices being known, until the table is three fifths full or all is done.

    Returns the next `start` and `count`.
    """
    codes, ones, table = vertices
    scale, strides, _ = axes
    offsets, weights, num_terms, column = target.offsets, target.weights, target.num_terms, target.column
    num_pixels, num_points, size = points.num_pixels, points.num_points, constant(sides)
    block_codes, slots = np.empty(size * BLOCK, np.int64), np.empty(size * BLOCK, np.int64)
    shares, guesses = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.int32)
    distances, origins = np.empty(size * BLOCK, np.float32), np.empty(size * BLOCK, np.float32)
    block = Block(distances, origins, np.empty(size * BLOCK, np.float32), block_codes, slots, shares)
    while start < num_points and 5 * (count + size * BLOCK) <= 3 * len(table):
        _embed_block(points, scale, start, block, sides)
        _vertices_of_block(block, strides, table, sides)
        for lane in range(size * BLOCK):  # no branch that could be guessed wrong: the loads overlap
            put(guesses, lane, item(table, item(slots, lane)))
        for pixel in range(start, min(start + BLOCK, num_points)):
            for r in range(size):
                lane = r * BLOCK + pixel - start
                code = item(block_codes, lane)
                vertex = np.intp(item(guesses, lane))
                if vertex < 0 or item(codes, vertex) != code:
                    slot = find_slot(table, codes, code, item(slots, lane))
                    vertex = np.intp(item(table, slot))
                    if vertex < 0:
                        vertex = np.intp(count)
                        put(codes, vertex, code)
                        put(ones, vertex, np.float32(0.0))
                        put(table, slot, np.int32(vertex))
                        count += 1
                if pixel == num_pixels:  # the phantom: its vertices are there, and empty
                    continue
                weight = item(shares, lane)
                put(ones, vertex, item(ones, vertex) + weight)
                put(offsets, pixel * num_terms + column + r, np.uint32(vertex))
                put(weights, pixel * num_terms + column + r, weight)
        start += BLOCK
    return start, count
