"""Inner loops of the CPU's mean field: splat, blur, slice and softmax over labels in SIMD, compiled by numba.

Labels lie last in memory, padded to whole vectors. `values` is `(rows, padded labels)` float32: what the vertices of
all kernels' lattices hold, one lattice below the other; `vertices` and `weights` are `(N, T)`: the T vertices of a
pixel over all kernels. The weights have the symmetric normalisation and the square root of the kernel's strength in
them, so that slicing with the weights that splatted gives the finished message.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

from typing import Any

import numpy as np

from weakclip.crf.simd import (
    LANES,
    add,
    broadcast,
    exp,
    jit,
    load,
    max_lanes,
    maximum,
    multiply,
    multiply_add,
    store,
    sum_lanes,
)


@jit
def splat(values: Any, vertices: Any, weights: Any, probs: Any) -> None:
    """Write every pixel's label probabilities, `(N, padded labels)`, to its vertices: `values += weight · probs`."""
    for pixel in range(len(vertices)):
        _splat_row(values, vertices, weights, pixel, probs, pixel)


@jit
def _splat_row(values: Any, vertices: Any, weights: Any, pixel: Any, rows: Any, row: Any) -> None:
    for t in range(vertices.shape[1]):
        weight = broadcast(weights[pixel, t])
        vertex = vertices[pixel, t]
        for k in range(0, values.shape[1], LANES):
            store(values, vertex, k, multiply_add(weight, load(rows, row, k), load(values, vertex, k)))


@jit
def blur(values: Any, first_row: Any, chain_vertices: Any, chain_starts: Any) -> None:
    """Blur one lattice, whose vertices begin at `first_row`, with (½, 1, ½) along all its chains in turn, in place."""
    half, zero = broadcast(np.float32(0.5)), broadcast(np.float32(0.0))
    for chain in range(len(chain_starts) - 1):
        begin, end = chain_starts[chain], chain_starts[chain + 1] - 1
        for k in range(0, values.shape[1], LANES):
            previous = zero
            vertex = first_row + chain_vertices[begin]
            current = load(values, vertex, k)
            for position in range(begin, end):
                following_vertex = first_row + chain_vertices[position + 1]
                following = load(values, following_vertex, k)
                store(values, vertex, k, multiply_add(half, add(previous, following), current))
                previous, current, vertex = current, following, following_vertex
            store(values, vertex, k, multiply_add(half, previous, current))


@jit
def slice_first_label(values: Any, first_row: Any, vertices: Any, weights: Any) -> Any:
    """Read the first label back at every pixel: `(N,)` float32."""
    result = np.empty(len(vertices), np.float32)
    for pixel in range(len(vertices)):
        total = np.float32(0.0)
        for t in range(vertices.shape[1]):
            total += weights[pixel, t] * values[first_row + vertices[pixel, t], 0]
        result[pixel] = total
    return result


@jit
def _update_row(
    values: Any, vertices: Any, weights: Any, pixel: Any, log_probs: Any, counts: Any, probs: Any, row: Any
) -> None:
    """New marginals of one pixel into `probs[row]`: softmax over labels of log-probability plus message."""
    highest = broadcast(np.float32(-np.inf))
    for k in range(0, values.shape[1], LANES):
        energy = load(log_probs, pixel, k)
        for t in range(vertices.shape[1]):
            energy = multiply_add(broadcast(weights[pixel, t]), load(values, vertices[pixel, t], k), energy)
        store(probs, row, k, energy)
        highest = maximum(highest, energy)
    shift = broadcast(-max_lanes(highest))
    total = broadcast(np.float32(0.0))
    for k in range(0, values.shape[1], LANES):
        unnormalised = exp(add(load(probs, row, k), shift))
        store(probs, row, k, unnormalised)
        total = multiply_add(load(counts, 0, k), unnormalised, total)
    factor = broadcast(np.float32(1.0) / sum_lanes(total))
    for k in range(0, values.shape[1], LANES):
        store(probs, row, k, multiply(factor, load(probs, row, k)))


@jit
def update_and_splat(values: Any, vertices: Any, weights: Any, log_probs: Any, counts: Any, target: Any) -> None:
    """One mean-field update: slice `values`, softmax, and splat the new marginals to `target`, which holds zeros.

    `counts` is `(1, padded labels)` float32: how many equal labels each column stands for, 0 for padding.
    """
    row = np.empty((1, values.shape[1]), np.float32)
    for pixel in range(len(vertices)):
        _update_row(values, vertices, weights, pixel, log_probs, counts, row, 0)
        _splat_row(target, vertices, weights, pixel, row, 0)


@jit
def update(values: Any, vertices: Any, weights: Any, log_probs: Any, counts: Any, probs: Any) -> None:
    """The last mean-field update: as `update_and_splat`, but the marginals are written to `probs`."""
    for pixel in range(len(vertices)):
        _update_row(values, vertices, weights, pixel, log_probs, counts, probs, pixel)
