"""Inner loops of the CPU's mean field: splat, blur, slice and softmax over labels in SIMD, compiled by numba.

Arrays are flat. Labels lie last in memory, padded to `width = blocks · lanes`. `values` holds what the vertices of all
kernels' lattices hold, one lattice below the other, `width` floats a vertex. `vertices` and `weights` hold the
`terms` vertices of a pixel over all kernels. The weights have the symmetric normalisation and the square root of the
kernel's strength in them, so that slicing with the weights that splatted gives the finished message.
`lanes`, `blocks` and `terms` come from `size_of`; `blocks` and `terms` may be plain integers.
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
    minimum,
    multiply,
    multiply_add,
    put,
    store,
    sum_lanes,
)

_OVERFLOW = np.float32(3e38)
_CHUNK = 256  # rows that stay in the first cache while they are transposed


@jit
def _splat_row(
    values: Any, vertices: Any, weights: Any, first: Any, rows: Any, row: Any, lanes: Any, blocks: Any, terms: Any
) -> None:
    """Write one pixel, whose terms begin at `first` and whose labels at `rows[row]`, to its vertices."""
    width = constant(blocks) * constant(lanes)
    for t in range(constant(terms)):
        weight = broadcast(item(weights, first + t), lanes)
        vertex = np.intp(item(vertices, first + t)) * width
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            sum_ = multiply_add(weight, load(rows, row + k, lanes), load(values, vertex + k, lanes))
            store(values, vertex + k, sum_)


@jit
def splat(values: Any, vertices: Any, weights: Any, rows: Any, lanes: Any, blocks: Any, terms: Any) -> None:
    """Write every pixel's label probabilities, `rows`, to its vertices: `values += weight · probability`."""
    width = constant(blocks) * constant(lanes)
    for pixel in range(len(rows) // width):
        first = pixel * constant(terms)
        _splat_row(values, vertices, weights, first, rows, pixel * width, lanes, blocks, terms)


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
def normalise(
    ones: Any, vertices: Any, weights: Any, num_terms: Any, column: Any, first_vertex: Any, gain: Any, strength: Any,
    size: Any,
) -> None:  # fmt: skip
    """Multiply one kernel's weights by `√(strength · gain / norm)`, norm being the filter's response to ones.

    Its `size` terms begin at `column`. `ones` holds what a signal of ones left at its vertices, blurred.
    """
    for first in range(column, len(vertices), num_terms):
        total = np.float32(0.0)
        for t in range(constant(size)):
            total += item(weights, first + t) * item(ones, np.intp(item(vertices, first + t)) - first_vertex)
        factor = np.sqrt(strength * gain) / np.sqrt(gain * total + np.float32(1e-20))
        for t in range(constant(size)):
            put(weights, first + t, item(weights, first + t) * factor)


@jit
def copy_terms(vertices: Any, weights: Any, first_vertex: Any, strength: Any, all_vertices: Any, all_weights: Any,
    num_terms: Any, column: Any, size: Any) -> None:  # fmt: skip
    """Write the terms of a cached kernel among those of all kernels, from `column` on."""
    for pixel in range(len(vertices) // constant(size)):
        for t in range(constant(size)):
            source, place = pixel * constant(size) + t, pixel * num_terms + column + t
            put(all_vertices, place, np.int32(item(vertices, source) + first_vertex))
            put(all_weights, place, item(weights, source) * strength)


@jit
def fill_rows(planes: Any, distinct: Any, order: Any, rows: Any) -> None:
    """`rows[i, k] = planes[distinct[k], order[i]]`; the labels that pad `rows` become 0."""
    for start in range(0, len(order), _CHUNK):
        for k in range(rows.shape[1]):
            for index in range(start, min(start + _CHUNK, len(order))):
                rows[index, k] = planes[distinct[k], order[index]] if k < len(distinct) else 0


@jit
def normalise_rows(rows: Any, counts: Any, lanes: Any, blocks: Any) -> Any:
    """Make every row, flat, sum to one, each column counting `counts` times.

    Returns the lowest number, and the smallest and largest sum; one of them is not finite if any number is not.
    """
    width = constant(blocks) * constant(lanes)
    lowest = broadcast(np.float32(np.inf), lanes)
    smallest, largest, all_totals = np.float32(np.inf), np.float32(-np.inf), np.float32(0.0)
    for start in range(0, len(rows), width):
        sums = broadcast(np.float32(0.0), lanes)
        for b in range(constant(blocks)):
            values = load(rows, start + b * constant(lanes), lanes)
            lowest = minimum(lowest, values)
            sums = multiply_add(load(counts, b * constant(lanes), lanes), values, sums)
        total = sum_lanes(sums)
        smallest, largest, all_totals = min(smallest, total), max(largest, total), all_totals + total
        factor = broadcast(np.float32(1.0) / total, lanes)
        for b in range(constant(blocks)):
            at = start + b * constant(lanes)
            store(rows, at, multiply(factor, load(rows, at, lanes)))
    least = np.empty(constant(lanes), np.float32)
    store(least, 0, lowest)
    return least.min(), smallest, largest if np.isfinite(all_totals) else np.float32(np.inf)


@jit
def fill_planes(rows: Any, order: Any, planes: Any) -> None:
    """`planes[k, order[i]] = rows[i, k]`."""
    for start in range(0, len(order), _CHUNK):
        for k in range(len(planes)):
            for index in range(start, min(start + _CHUNK, len(order))):
                planes[k, order[index]] = rows[index, k]


@jit
def fill_features(positions: Any, image: Any, order: Any, srgb: Any, features: Any) -> None:
    """Positions `(2, N)` and colours over `srgb`, `(C,)`, as rows of `features`; `image` is `(H·W, C)`."""
    for index in range(len(order)):
        features[0, index], features[1, index] = positions[0, index], positions[1, index]
        for c in range(image.shape[1]):
            features[2 + c, index] = image[order[index], c] / srgb[c]


@jit
def _message(values: Any, vertices: Any, weights: Any, first: Any, k: Any, width: Any, lanes: Any, terms: Any) -> Any:
    """What a pixel, whose terms begin at `first`, reads of the labels from `k` on."""
    message = broadcast(np.float32(0.0), lanes)
    for t in range(constant(terms)):
        vertex = np.intp(item(vertices, first + t)) * width + k
        message = multiply_add(broadcast(item(weights, first + t), lanes), load(values, vertex, lanes), message)
    return message


@jit
def _update_row(
    values: Any, vertices: Any, weights: Any, probs: Any, counts: Any, pixel: Any, result: Any, row: Any,
    lanes: Any, blocks: Any, terms: Any,
) -> Any:  # fmt: skip
    """New marginals of one pixel at `result[row]`: `p · exp(message)` over its sum, which is returned.

    Messages are not negative, so that the sum is at least one; it is infinite where a message is above 88.
    """
    width, first = constant(blocks) * constant(lanes), pixel * constant(terms)
    sums = broadcast(np.float32(0.0), lanes)
    for b in range(constant(blocks)):
        k = b * constant(lanes)
        message = _message(values, vertices, weights, first, k, width, lanes, terms)
        unnormalised = multiply(load(probs, pixel * width + k, lanes), exp(message))
        store(result, row + k, unnormalised)
        sums = multiply_add(load(counts, k, lanes), unnormalised, sums)
    total = sum_lanes(sums)
    factor = broadcast(np.float32(1.0) / total, lanes)
    for b in range(constant(blocks)):
        k = row + b * constant(lanes)
        store(result, k, multiply(factor, load(result, k, lanes)))
    return total


@jit
def update_and_splat(
    values: Any, vertices: Any, weights: Any, probs: Any, counts: Any, target: Any,
    lanes: Any, blocks: Any, terms: Any,
) -> Any:  # fmt: skip
    """One mean-field update: slice `values`, softmax, and splat the new marginals to `target`, which holds zeros.

    `counts` says how many equal labels each column stands for, 0 for padding. False where an exponential overflowed.
    """
    width = constant(blocks) * constant(lanes)
    row = np.empty(width, np.float32)
    finite = True
    for pixel in range(len(probs) // width):
        total = _update_row(values, vertices, weights, probs, counts, pixel, row, 0, lanes, blocks, terms)
        finite &= total < _OVERFLOW
        _splat_row(target, vertices, weights, pixel * constant(terms), row, 0, lanes, blocks, terms)
    return finite


@jit
def update(
    values: Any, vertices: Any, weights: Any, probs: Any, counts: Any, result: Any, lanes: Any, blocks: Any, terms: Any
) -> Any:
    """The last mean-field update: as `update_and_splat`, but the marginals are written to `result`, like `probs`."""
    width = constant(blocks) * constant(lanes)
    finite = True
    for pixel in range(len(probs) // width):
        total = _update_row(
            values, vertices, weights, probs, counts, pixel, result, pixel * width, lanes, blocks, terms
        )
        finite &= total < _OVERFLOW
    return finite


@jit
def slice_rows(values: Any, vertices: Any, weights: Any, result: Any, lanes: Any, blocks: Any, terms: Any) -> None:
    """Read all labels back at every pixel: the message, into `result`."""
    width = constant(blocks) * constant(lanes)
    for pixel in range(len(result) // width):
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            message = _message(values, vertices, weights, pixel * constant(terms), k, width, lanes, terms)
            store(result, pixel * width + k, message)
