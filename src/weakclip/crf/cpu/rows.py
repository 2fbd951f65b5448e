"""Work that is done once an image, before and after the mean field: rows of labels, features and weights; compiled."""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)
from __future__ import annotations

import numpy as np

from weakclip.crf.cpu.jit import inner_jit, jit
from weakclip.crf.cpu.simd import broadcast, constant, has_bytes, item, load, put, store, transpose
from weakclip.crf.cpu.structures import F32, I32, I64, U8, Float, Int, PixelTerms, Planes, Size, Target
from weakclip.crf.cpu.vector_math import lowest_lane, minimum, multiply, multiply_add, sum_lanes

_CHUNK = 256  # rows that stay in the first cache while they are transposed


@inner_jit
def normalise(ones: F32, target: Target, sides: Size) -> None:
    """Finish the terms of one kernel, `sides` of a pixel's terms.

    Weights are multiplied by `√(strength / norm)`. The norm is the filter's response to ones: `ones` is what the
    vertices hold after the blur, and it is sliced here. Vertices become offsets in the table of values.
    """
    offsets, weights, num_terms, column, first_vertex, width, strength = target
    for first in range(column, len(offsets), num_terms):
        norm = np.float32(1e-20)  # never a division by zero
        for t in range(constant(sides)):
            norm += item(weights, first + t) * item(ones, np.intp(item(offsets, first + t)))
        factor = np.sqrt(strength / norm)
        for t in range(constant(sides)):
            put(weights, first + t, item(weights, first + t) * factor)
            put(offsets, first + t, np.uint32((np.intp(item(offsets, first + t)) + first_vertex) * width))


@jit
def copy_terms(kept: PixelTerms, target: Target) -> None:
    """Write the terms of a kernel that was kept for later among those of all kernels, as `normalise` does."""
    kept_offsets, kept_weights, sides = kept
    offsets, weights, num_terms, column, first_vertex, width, strength = target
    factor = np.sqrt(strength)
    for pixel in range(len(kept_offsets) // constant(sides)):
        for t in range(constant(sides)):
            source, place = pixel * constant(sides) + t, pixel * num_terms + column + t
            put(offsets, place, np.uint32((np.intp(item(kept_offsets, source)) + first_vertex) * width))
            put(weights, place, item(kept_weights, source) * factor)


@jit
def fill_rows(source: Planes, rows: F32, width: Int) -> None:
    """`rows[i, k] = planes[distinct[k], order[i]]`, flat; the labels that pad `rows` become 0."""
    planes, distinct, order = source
    for start in range(0, len(order), _CHUNK):
        _fill_chunk(planes, distinct, order, rows, width, start, min(start + _CHUNK, len(order)))


@inner_jit
def _fill_chunk(planes: F32, distinct: I64, order: I32, rows: F32, width: Int, start: Int, stop: Int) -> None:
    """`fill_rows` for the pixels from `start` to `stop`."""
    for k in range(0, len(distinct), 4):  # four labels at a time: where four pixels lie side by side, 4×4 at once
        a, b, c, d = _four_planes(distinct, k, len(order))
        index = start
        while index < stop:
            pixel, to = np.intp(item(order, index)), index * width + k
            if index + 3 < stop and item(order, index + 3) == pixel + 3:
                froms, tos = (
                    (a + pixel, b + pixel, c + pixel, d + pixel),
                    (to, to + width, to + 2 * width, to + 3 * width),
                )
                transpose(planes, froms, rows, tos)
                index += 4
            else:
                put(rows, to, item(planes, a + pixel))
                put(rows, to + 1, item(planes, b + pixel))
                put(rows, to + 2, item(planes, c + pixel))
                put(rows, to + 3, item(planes, d + pixel))
                index += 1
    for index in range(start, stop):
        for k in range(len(distinct), width):
            put(rows, index * width + k, np.float32(0.0))


@inner_jit
def _four_planes(distinct: I64, k: Int, size: Int) -> tuple[Int, Int, Int, Int]:
    """Where the planes of four labels from k on begin.

    Beyond the last label it is the first of the four again: such lanes read something valid, and are written first, so
    that the right value overwrites them.
    """
    a = np.intp(item(distinct, k)) * size
    b = np.intp(item(distinct, k + 1)) * size if k + 1 < len(distinct) else a
    c = np.intp(item(distinct, k + 2)) * size if k + 2 < len(distinct) else a
    d = np.intp(item(distinct, k + 3)) * size if k + 3 < len(distinct) else a
    return a, b, c, d


@jit
def fill_probabilities(source: Planes, rows: F32, counts: F32, lanes: Size, blocks: Size) -> tuple[Float, Float, Float]:
    """`fill_rows`, and every row made to sum to one, each column counting `counts` times.

    Returns the lowest number of all, and the smallest and largest sum; one of them is not finite if any number is not.
    """
    planes, distinct, order = source
    width = constant(blocks) * constant(lanes)
    lowest, all_totals = broadcast(np.float32(np.inf), lanes), np.float32(0.0)
    smallest, largest = np.float32(np.inf), np.float32(-np.inf)
    for first in range(0, len(order), _CHUNK):
        stop = min(first + _CHUNK, len(order))
        _fill_chunk(planes, distinct, order, rows, width, first, stop)
        for start in range(first * width, stop * width, width):
            sums = broadcast(np.float32(0.0), lanes)
            for k in range(0, width, constant(lanes)):
                values = load(rows, start + k, lanes)
                lowest = minimum(lowest, values)
                sums = multiply_add(load(counts, k, lanes), values, sums)
            total = sum_lanes(sums)
            smallest, largest, all_totals = min(smallest, total), max(largest, total), all_totals + total
            factor = broadcast(np.float32(1.0) / total, lanes)
            for k in range(start, start + width, constant(lanes)):
                store(rows, k, multiply(factor, load(rows, k, lanes)))
    if not np.isfinite(all_totals):  # min and max pass NaN over; a sum does not
        largest = np.float32(np.inf)
    return lowest_lane(lowest), smallest, largest


@jit
def fill_planes(rows: F32, first_row: Int, first: Int, number: Int, target: Planes, width: Int) -> None:
    """`planes[distinct[k], order[first + i]] = rows[first_row + i, k]` for `number` pixels."""
    planes, distinct, order = target
    for k in range(0, len(distinct), 4):
        a, b, c, d = _four_planes(distinct, k, len(order))
        i = 0
        while i < number:
            pixel, at = np.intp(item(order, first + i)), (first_row + i) * width + k
            if i + 3 < number and item(order, first + i + 3) == pixel + 3:
                froms, tos = (
                    (at, at + width, at + 2 * width, at + 3 * width),
                    (a + pixel, b + pixel, c + pixel, d + pixel),
                )
                transpose(rows, froms, planes, tos)
                i += 4
            else:
                put(planes, d + pixel, item(rows, at + 3))
                put(planes, c + pixel, item(rows, at + 2))
                put(planes, b + pixel, item(rows, at + 1))
                put(planes, a + pixel, item(rows, at))  # comes last: it may stand for the others
                i += 1


@jit
def find_equal_planes(planes: F32, distinct: I64, column: I64) -> Int:
    """Fill in the first plane of each kind, and of which kind every plane is; returns the number of kinds."""
    count, size = 0, len(planes) // len(column)
    for label in range(len(column)):
        kind = 0
        while kind < count and not _equal(planes, np.intp(item(distinct, kind)) * size, label * size, size):
            kind += 1
        if kind == count:
            put(distinct, kind, label)
            count += 1
        put(column, label, kind)
    return count


@inner_jit
def _equal(planes: F32, a: Int, b: Int, size: Int) -> bool:
    """Whether `planes`, flat, holds the same `size` numbers from `a` and from `b` on."""
    middle = size // 2  # planes that differ mostly differ there
    if item(planes, a + middle) != item(planes, b + middle):
        return False
    for start in range(0, size, _CHUNK):
        same = True
        for index in range(start, min(start + _CHUNK, size)):
            same &= item(planes, a + index) == item(planes, b + index)
        if not same:
            return False
    return True


@jit
def fill_features(
    columns: F32, rows: F32, image: U8 | F32, srgb: F32, levels: F32, features: F32, padded: Int, tile: Int
) -> None:
    """Features, flat and of `padded` pixels each, in the order of tiles: x, y, and `image` over `srgb`, `(C,)`.

    `columns` and `rows` hold x and y in standard deviations, `levels` what bytes are over `srgb`.
    """
    channels, width, index = len(srgb), len(columns), 0
    for top in range(0, len(rows), tile):
        for left in range(0, width, tile):
            number = min(tile, width - left)
            for y in range(top, min(top + tile, len(rows))):
                for x in range(number):
                    put(features, index + x, item(columns, left + x))
                    put(features, padded + index + x, item(rows, y))
                for c in range(channels):
                    at, place = (y * width + left) * channels + c, (2 + c) * padded + index
                    for x in range(number):
                        colour = item(image, at + x * channels)
                        if has_bytes(image):
                            put(features, place + x, item(levels, c * 256 + np.intp(colour)))
                        else:
                            put(features, place + x, np.float32(colour) / item(srgb, c))
                index += number
