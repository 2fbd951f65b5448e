"""Inner loops of the CPU's mean field: splat, blur, slice and softmax over labels in SIMD, compiled by numba.

Arrays are flat. Labels lie last in memory, padded to `width = blocks · lanes`. `values` holds what the vertices of all
kernels' lattices hold, one lattice below the other, `width` floats a vertex. `offsets` and `weights` hold the `terms`
vertices of a pixel over all kernels, an offset being where in `values` a vertex begins. The weights have the symmetric
normalisation and the square root of the kernel's strength in them, so that slicing with the weights that splatted
gives the finished message.
"""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)
from __future__ import annotations

import numpy as np

from weakclip.crf.cpu.grid import blur_grid
from weakclip.crf.cpu.jit import inner_jit, jit
from weakclip.crf.cpu.rows import fill_planes
from weakclip.crf.cpu.simd import broadcast, constant, item, item_pair, load, put, size_of, store
from weakclip.crf.cpu.structures import F32, I32, U32, Float, Int, Lanes, Lattice, PixelTerms, Planes, RowShape, Size
from weakclip.crf.cpu.vector_math import add, divide, exp, multiply, multiply_add, sum_groups, sum_lanes

_ZERO = np.float32(0.0)
_FIRST = np.intp(0)  # for a plain 0, numba would compile what is called a second time
_CHUNK = 64  # pixels whose messages stay in the first cache; a multiple of 4
_RING = 4  # room for the pixels that are under way; a power of two
_8, _16 = size_of(8), size_of(16)


@jit
def splat_rows(
    values: F32, terms: PixelTerms, first: Int, number: Int, rows: F32, first_row: Int, shape: RowShape
) -> None:
    """Write `number` pixels from `first` on to their vertices: `values += weight · probability`.

    Their label probabilities are the `rows` from `first_row` on.
    """
    offsets, weights, size = terms
    lanes, blocks, _ = shape
    width = constant(blocks) * constant(lanes)
    for pixel in range(number):
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            probs = load(rows, (first_row + pixel) * width + k, lanes)
            _splat_vector(values, offsets, weights, (first + pixel) * constant(size), k, probs, lanes, size)


@inner_jit
def _splat_vector(
    values: F32, offsets: U32, weights: F32, first: Int, k: Int, probs: Lanes, lanes: Size, terms: Size
) -> None:
    """Write a pixel's labels from `k` on to its vertices; its terms begin at `first`."""
    for t in range(0, constant(terms) - 1, 2):  # two offsets in one load of 64 bits
        a, b = item_pair(offsets, first + t)
        _splat_term(values, a + k, item(weights, first + t), probs, lanes)
        _splat_term(values, b + k, item(weights, first + t + 1), probs, lanes)
    if constant(terms) % 2 == 1:
        last = first + constant(terms) - 1
        _splat_term(values, np.intp(item(offsets, last)) + k, item(weights, last), probs, lanes)


@inner_jit
def _splat_term(values: F32, at: Int, weight: Float, probs: Lanes, lanes: Size) -> None:
    store(values, at, multiply_add(broadcast(weight, lanes), probs, load(values, at, lanes)))


@inner_jit
def _message(values: F32, offsets: U32, weights: F32, first: Int, k: Int, lanes: Size, terms: Size) -> Lanes:
    """The message to a pixel's labels from `k` on; its terms begin at `first`."""
    message = broadcast(np.float32(0.0), lanes)
    for t in range(0, constant(terms) - 1, 2):
        a, b = item_pair(offsets, first + t)
        message = multiply_add(broadcast(item(weights, first + t), lanes), load(values, a + k, lanes), message)
        message = multiply_add(broadcast(item(weights, first + t + 1), lanes), load(values, b + k, lanes), message)
    if constant(terms) % 2 == 1:
        last = first + constant(terms) - 1
        at = np.intp(item(offsets, last)) + k
        message = multiply_add(broadcast(item(weights, last), lanes), load(values, at, lanes), message)
    return message


@jit
def slice_rows(
    values: F32, terms: PixelTerms, first: Int, number: Int, rows: F32, first_row: Int, shape: RowShape
) -> None:
    """Read `number` pixels from `first` on back from their vertices, into the `rows` from `first_row` on."""
    offsets, weights, size = terms
    lanes, blocks, _ = shape
    width = constant(blocks) * constant(lanes)
    for pixel in range(number):
        for b in range(constant(blocks)):
            k = b * constant(lanes)
            message = _message(values, offsets, weights, (first + pixel) * constant(size), k, lanes, size)
            store(rows, (first_row + pixel) * width + k, message)


@inner_jit
def clear(values: F32) -> None:
    """Zeros throughout."""
    for at in range(len(values)):
        put(values, at, _ZERO)


@jit
def blur(values: F32, lattice: Lattice, narrow: Size, width: Int) -> None:
    """Blur one lattice with (½, 1, ½) along all its axes in turn, in place.

    Along chains, labels are taken 16 at a time, the last 24 at once where 8 would be left; `narrow`, from `size_of`, is
    for rows of 4 or 8.
    """
    num_vertices, first_vertex, chain_vertices, chain_groups, columns = lattice
    if len(columns) > 0:
        rows = num_vertices // len(columns)
        blur_grid(values, first_vertex * constant(width), columns, rows, narrow, width)
    rest, begin = constant(width) % 16, 0
    if constant(width) > 16 and rest == 8:
        rest = 24
    for group in range(len(chain_groups)):
        length, number = chain_groups[group]
        for start in range(begin, begin + number * length, length):
            for k in range(0, constant(width) - rest, 16):
                _blur_chain(values, first_vertex, chain_vertices, start, length, k, width, _16)
            if rest == 24:
                _blur_chain_24(values, first_vertex, chain_vertices, start, length, constant(width) - 24, width)
            elif rest > 0:
                _blur_chain(values, first_vertex, chain_vertices, start, length, constant(width) - rest, width, narrow)
        begin += length * number


@inner_jit
def _blur_chain(
    values: F32, first_vertex: Int, chain_vertices: I32, start: Int, length: Int, k: Int, width: Int, lanes: Size
) -> None:
    """Blur the labels from k on along the chain that begins at `start`."""
    half = broadcast(np.float32(0.5), lanes)
    at = (first_vertex + np.intp(item(chain_vertices, start))) * constant(width) + k
    next_at = (first_vertex + np.intp(item(chain_vertices, start + 1))) * constant(width) + k
    current, following = load(values, at, lanes), load(values, next_at, lanes)
    store(values, at, multiply_add(half, following, current))
    for position in range(start + 2, start + length):
        previous, current, at = current, following, next_at
        next_at = (first_vertex + np.intp(item(chain_vertices, position))) * constant(width) + k
        following = load(values, next_at, lanes)
        store(values, at, multiply_add(half, add(previous, following), current))
    store(values, next_at, multiply_add(half, current, following))


@inner_jit
def _blur_chain_24(
    values: F32, first_vertex: Int, chain_vertices: I32, start: Int, length: Int, k: Int, width: Int
) -> None:
    """`_blur_chain` for 24 labels as vectors of 16 and 8: LLVM keeps one of 24 in memory from step to step."""
    half, half_8 = broadcast(np.float32(0.5), _16), broadcast(np.float32(0.5), _8)
    at = (first_vertex + np.intp(item(chain_vertices, start))) * constant(width) + k
    next_at = (first_vertex + np.intp(item(chain_vertices, start + 1))) * constant(width) + k
    current, following = load(values, at, _16), load(values, next_at, _16)
    current_8, following_8 = load(values, at + 16, _8), load(values, next_at + 16, _8)
    store(values, at, multiply_add(half, following, current))
    store(values, at + 16, multiply_add(half_8, following_8, current_8))
    for position in range(start + 2, start + length):
        previous, current, previous_8, current_8, at = current, following, current_8, following_8, next_at
        next_at = (first_vertex + np.intp(item(chain_vertices, position))) * constant(width) + k
        following, following_8 = load(values, next_at, _16), load(values, next_at + 16, _8)
        store(values, at, multiply_add(half, add(previous, following), current))
        store(values, at + 16, multiply_add(half_8, add(previous_8, following_8), current_8))
    store(values, next_at, multiply_add(half, current, following))
    store(values, next_at + 16, multiply_add(half_8, current_8, following_8))


@jit
def mean_field(
    probs: F32,
    counts: F32,
    terms: PixelTerms,
    lattices: tuple[Lattice, ...],
    tables: tuple[F32, F32],
    iterations: Int,
    marginals: Planes,
    shape: RowShape,
) -> bool:
    """All iterations of `p · exp(Σ messages)`, normalised, from `probs` to `marginals`.

    Messages are not negative, so that the sum which divides is at least one; it is infinite, and False is returned,
    where a message is above 88.

    Args:
        probs: `(N · width,)` and 16 more.
        counts: `(width,)`, how many equal labels each column stands for, 0 for padding.
        terms: each pixel's vertices, over all lattices.
        lattices: of each kernel.
        tables: two tables of values, of any content.
        iterations: 1 or more.
        marginals: what is filled, as by `fill_planes`.
        shape: of a row of labels.
    """
    lanes, blocks, narrow = shape
    width = constant(blocks) * constant(lanes)
    number = len(terms[0]) // constant(terms[2])
    messages, repeated = np.zeros(_CHUNK * width, np.float32), np.empty(width + 16, np.float32)
    for lane in range(len(repeated)):
        put(repeated, lane, item(counts, lane % width))
    values, following = tables
    clear(values)
    for start in range(0, number, _CHUNK):
        splat_rows(values, terms, start, min(_CHUNK, number - start), probs, start, shape)
    check = _ZERO  # becomes NaN with the first sum that is not finite
    for iteration in range(iterations):
        for index in range(len(lattices)):
            blur(values, lattices[index], narrow, width)
        last = iteration == iterations - 1
        clear(following)
        if 8 < width <= constant(lanes) and not last:
            check += _update_rows(values, following, terms, probs, repeated, messages, lanes)
            values, following = following, values
            continue
        for start in range(0, number, _CHUNK):
            count = min(_CHUNK, number - start)
            slice_rows(values, terms, start, count, messages, _FIRST, shape)
            check += _softmax(probs, start * width, count, repeated, messages, narrow, width // len(narrow))
            if last:
                fill_planes(messages, _FIRST, start, count, marginals, width)
            else:
                splat_rows(following, terms, start, count, messages, _FIRST, shape)
        values, following = following, values
    return check == _ZERO


@inner_jit
def _update_rows(
    values: F32, following: F32, terms: PixelTerms, probs: F32, counts: F32, messages: F32, lanes: Size
) -> Float:
    """Slice `values`, softmax, splat to `following`, for rows of one wide vector; returns as `_softmax`.

    Three pixels are under way: while one is read, the exponentials of the one before it and the stores of the one
    before that keep other parts of the processor busy. With rows of few labels the chunks of `mean_field` are faster.
    """
    offsets, weights, size = terms
    number, width = len(offsets) // constant(size), constant(lanes)
    factors, check = np.empty(_RING, np.float32), _ZERO
    for pixel in range(-2, number):
        reading, at = pixel + 2, (pixel + 2) % _RING * width
        if reading < number:
            store(messages, at, _message(values, offsets, weights, reading * constant(size), _FIRST, lanes, size))
        middle, at = pixel + 1, (pixel + 1) % _RING * width
        if (middle >= 0) & (middle < number):
            unnormalised = multiply(load(probs, middle * width, lanes), exp(load(messages, at, lanes)))
            store(messages, at, unnormalised)
            total = sum_lanes(multiply(load(counts, 0, lanes), unnormalised))
            check += total * _ZERO  # infinity · 0 is NaN
            put(factors, middle % _RING, np.float32(1.0) / total)
        if pixel >= 0:
            factor = broadcast(item(factors, pixel % _RING), lanes)
            marginals = multiply(factor, load(messages, pixel % _RING * width, lanes))
            _splat_vector(following, offsets, weights, pixel * constant(size), _FIRST, marginals, lanes, size)
    return check


@inner_jit
def _softmax(probs: F32, first: Int, number: Int, counts: F32, messages: F32, lanes: Size, blocks: Int) -> Float:
    """Turn the messages of `number` pixels, whose probabilities begin at `first`, into marginals, in place.

    `counts` is repeated to 16 lanes. Returns 0, or NaN if a sum is not finite.
    """
    width = constant(blocks) * constant(lanes)
    check = broadcast(_ZERO, _16)
    for at in range(0, number * width, 16):  # 16 at once, also beyond the last pixel: there is room
        unnormalised = multiply(load(probs, first + at, _16), exp(load(messages, at, _16)))
        if width == 4:  # four pixels at once
            total = sum_groups(multiply(load(counts, 0, _16), unnormalised), lanes)
            check = multiply_add(total, broadcast(_ZERO, _16), check)  # infinity · 0 is NaN
            unnormalised = divide(unnormalised, total)
        store(messages, at, unnormalised)
    return sum_lanes(check) if width == 4 else _normalise(messages, number, counts, lanes, blocks)


@inner_jit
def _normalise(rows: F32, number: Int, counts: F32, lanes: Size, blocks: Int) -> Float:
    """Divide each of `number` rows by its sum, in place; returns as `_softmax`."""
    width = constant(blocks) * constant(lanes)
    check = _ZERO
    for start in range(0, number * width, width):
        sums = broadcast(_ZERO, lanes)
        for k in range(0, width, constant(lanes)):
            sums = multiply_add(load(counts, k, lanes), load(rows, start + k, lanes), sums)
        total = sum_lanes(sums)
        check += total * _ZERO
        factor = broadcast(np.float32(1.0) / total, lanes)
        for k in range(start, start + width, constant(lanes)):
            store(rows, k, multiply(factor, load(rows, k, lanes)))
    return check
