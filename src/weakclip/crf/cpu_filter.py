"""Inner loops of the CPU's mean field: splat, blur, slice and softmax over labels in SIMD, compiled by numba.

Arrays are flat. Labels lie last in memory, padded to `width = blocks · lanes`. `values` holds what the vertices of all
kernels' lattices hold, one lattice below the other, `width` floats a vertex. `offsets` and `weights` hold the `terms`
vertices of a pixel over all kernels, an offset being where in `values` a vertex begins. The weights have the symmetric
normalisation and the square root of the kernel's strength in them, so that slicing with the weights that splatted
gives the finished message. `lanes`, `blocks` and `terms` come from `size_of`.
"""

# ruff: noqa: PLR0917  (compiled functions take their arrays by position)
from __future__ import annotations

from typing import Any

import numpy as np

from weakclip.crf.simd import (
    add,
    broadcast,
    constant,
    exp,
    item,
    jit,
    load,
    multiply,
    multiply_add,
    store,
    sum_lanes,
)

_ZERO = np.float32(0.0)


@jit
def splat(values: Any, offsets: Any, weights: Any, rows: Any, lanes: Any, blocks: Any, terms: Any) -> None:
    """Write every pixel's label probabilities, `rows`, to its vertices: `values += weight · probability`."""
    width = constant(blocks) * constant(lanes)
    for pixel in range(len(rows) // width):
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            probs = load(rows, pixel * width + k, lanes)
            _splat_vector(values, offsets, weights, pixel * constant(terms), k, probs, lanes, terms)


@jit
def _splat_vector(
    values: Any, offsets: Any, weights: Any, first: Any, k: Any, probs: Any, lanes: Any, terms: Any
) -> None:
    """Write a pixel's labels from `k` on to its vertices; its terms begin at `first`."""
    for t in range(constant(terms)):
        at = np.intp(item(offsets, first + t)) + k
        store(values, at, multiply_add(broadcast(item(weights, first + t), lanes), probs, load(values, at, lanes)))


@jit
def _message(values: Any, offsets: Any, weights: Any, first: Any, k: Any, lanes: Any, terms: Any) -> Any:
    """What a pixel reads of the labels from `k` on; its terms begin at `first`."""
    message = broadcast(np.float32(0.0), lanes)
    for t in range(constant(terms)):
        at = np.intp(item(offsets, first + t)) + k
        message = multiply_add(broadcast(item(weights, first + t), lanes), load(values, at, lanes), message)
    return message


@jit
def slice_rows(values: Any, offsets: Any, weights: Any, result: Any, lanes: Any, blocks: Any, terms: Any) -> None:
    """Read all labels back at every pixel: the message, into `result`."""
    width = constant(blocks) * constant(lanes)
    for pixel in range(len(result) // width):
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            message = _message(values, offsets, weights, pixel * constant(terms), k, lanes, terms)
            store(result, pixel * width + k, message)


@jit
def blur(values: Any, first_vertex: Any, chain_vertices: Any, chain_groups: Any, lanes: Any, blocks: Any) -> None:
    """Blur one lattice with (½, 1, ½) along all its chains in turn, in place."""
    width = constant(blocks) * constant(lanes)
    half, zero = broadcast(np.float32(0.5), lanes), broadcast(np.float32(0.0), lanes)
    begin = 0
    for group in range(len(chain_groups)):
        length, number = chain_groups[group]
        if length == 2:
            for chain in range(number):
                a = (first_vertex + np.intp(item(chain_vertices, begin + 2 * chain))) * width
                b = (first_vertex + np.intp(item(chain_vertices, begin + 2 * chain + 1))) * width
                for block in range(constant(blocks)):
                    k = block * constant(lanes)
                    first, second = load(values, a + k, lanes), load(values, b + k, lanes)
                    store(values, a + k, multiply_add(half, second, first))
                    store(values, b + k, multiply_add(half, first, second))
        else:
            for chain in range(number):
                start = begin + chain * length
                for block in range(constant(blocks)):
                    k = block * constant(lanes)
                    previous = zero
                    at = (first_vertex + np.intp(item(chain_vertices, start))) * width + k
                    current = load(values, at, lanes)
                    for position in range(start + 1, start + length):
                        next_at = (first_vertex + np.intp(item(chain_vertices, position))) * width + k
                        following = load(values, next_at, lanes)
                        store(values, at, multiply_add(half, add(previous, following), current))
                        previous, current, at = current, following, next_at
                    store(values, at, multiply_add(half, previous, current))
        begin += length * number


@jit
def update_and_splat(
    values: Any, offsets: Any, weights: Any, probs: Any, counts: Any, target: Any, lanes: Any, blocks: Any, terms: Any
) -> Any:
    """One mean-field update: slice `values`, softmax, and splat the new marginals to `target`, which holds zeros.

    A pixel's new marginals are `p · exp(message)` over their sum. Messages are not negative, so that the sum is at
    least one; it is infinite, and False is returned, where a message is above 88. `counts` says how many equal labels
    each column stands for, 0 for padding.
    """
    width = constant(blocks) * constant(lanes)
    row = np.empty(width, np.float32)
    check = _ZERO  # becomes NaN with the first sum that is not finite
    for pixel in range(len(probs) // width):
        first = pixel * constant(terms)
        if constant(blocks) == 1:
            marginals, total = _update_vector(values, offsets, weights, probs, counts, pixel, lanes, terms)
            _splat_vector(target, offsets, weights, first, 0, marginals, lanes, terms)
        else:
            total = _update_row(values, offsets, weights, probs, counts, pixel, row, 0, lanes, blocks, terms)
            for k in range(0, width, constant(lanes)):
                _splat_vector(target, offsets, weights, first, k, load(row, k, lanes), lanes, terms)
        check += total * _ZERO
    return check == _ZERO


@jit
def update(
    values: Any, offsets: Any, weights: Any, probs: Any, counts: Any, lanes: Any, blocks: Any, terms: Any
) -> Any:
    """The last mean-field update: as `update_and_splat`, but the marginals take the place of `probs`."""
    width = constant(blocks) * constant(lanes)
    check = _ZERO
    for pixel in range(len(probs) // width):
        start = pixel * width
        total = _update_row(values, offsets, weights, probs, counts, pixel, probs, start, lanes, blocks, terms)
        check += total * _ZERO
    return check == _ZERO


@jit
def _update_vector(
    values: Any, offsets: Any, weights: Any, probs: Any, counts: Any, pixel: Any, lanes: Any, terms: Any
) -> Any:
    """New marginals of one pixel whose labels are one vector, and what they were divided by."""
    message = _message(values, offsets, weights, pixel * constant(terms), 0, lanes, terms)
    unnormalised = multiply(load(probs, pixel * constant(lanes), lanes), exp(message))
    total = sum_lanes(multiply(load(counts, 0, lanes), unnormalised))
    return multiply(broadcast(np.float32(1.0) / total, lanes), unnormalised), total


@jit
def _update_row(
    values: Any, offsets: Any, weights: Any, probs: Any, counts: Any, pixel: Any, result: Any, row: Any, lanes: Any,
    blocks: Any, terms: Any,
) -> Any:  # fmt: skip
    """New marginals of one pixel into `result` from `row` on; returns what they were divided by."""
    width, sums = constant(blocks) * constant(lanes), broadcast(np.float32(0.0), lanes)
    for k in range(0, width, constant(lanes)):
        message = _message(values, offsets, weights, pixel * constant(terms), k, lanes, terms)
        unnormalised = multiply(load(probs, pixel * width + k, lanes), exp(message))
        store(result, row + k, unnormalised)
        sums = multiply_add(load(counts, k, lanes), unnormalised, sums)
    total = sum_lanes(sums)
    factor = broadcast(np.float32(1.0) / total, lanes)
    for k in range(row, row + width, constant(lanes)):
        store(result, k, multiply(factor, load(result, k, lanes)))
    return total
