"""The lattice of a Gaussian kernel as a grid: its vertices fill the image without a gap, so the blur needs no list.

The three coordinates of a vertex sum to zero. Those with equal difference of the first two form a column; along it runs
the third axis. The other two axes lead from a column to the next one, straight on or half a row up or down:

    column    0   1   2   3        axis 0 ↗ or →,  axis 1 ↘ or →,  axis 2 ↓
    row 1     ●       ●
                  ●       ●        Odd columns lie half a row lower. The frame of the grid, its first and last
    row 2     ●       ●            row and column, stands for vertices that do not exist, and stays zero.
                  ●       ●
"""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)
from __future__ import annotations

import math

import numpy as np

from weakclip.crf.cpu.jit import inner_jit
from weakclip.crf.cpu.simd import broadcast, constant, load, store
from weakclip.crf.cpu.structures import F32, I64, Int, Size
from weakclip.crf.cpu.vector_math import add, multiply_add
from weakclip.crf.features import key_strides, lattice_scale


def as_grid(codes: I64, spans: tuple[float, ...]) -> tuple[I64, I64, int] | None:
    """Number the vertices of a lattice of two dimensions, `(V,)` codes, column by column.

    Returns:
        The new number of each vertex, `(V,)`; the first row of each column and the one after its last, `(C, 2)`; the
        number of rows. None where the vertices of a column do not all follow each other: kernels narrower than a pixel.
    """
    stride, one, _ = key_strides(spans).tolist()
    lowest = -math.ceil(spans[0] * float(lattice_scale(2)[0])) - 6  # of the second coordinate, see `key_strides`
    if one != 1:
        return None
    second = (codes - lowest) % stride + lowest
    first = (codes - second) // stride
    column = (first - second) // 3
    row = (column - first - second) // 2 - column // 2
    column -= (column.min() - 1) // 2 * 2  # from 1 on, or from 2: even ones stay even
    row -= row.min() - 1
    rows = int(row.max()) + 2
    bounds = np.zeros((int(column.max()) + 2, 2), np.int64)
    bounds[column, 0] = rows
    np.minimum.at(bounds[:, 0], column, row)
    np.maximum.at(bounds[:, 1], column, row + 1)
    if (bounds[:, 1] - bounds[:, 0]).sum() != len(codes):
        return None
    return column * rows + row, bounds, rows


@inner_jit
def blur_grid(values: F32, first: Int, columns: I64, rows: Int, narrow: Size, width: Int) -> None:
    """Blur in place along axis 0, 1 and 2 a grid whose labels begin at `values[first]`; as `filter.blur`.

    One walk over the columns does all three: axis 0 is a column ahead of the others.
    """
    size, last = rows * constant(width), len(columns) - 1
    straight, tilted = np.zeros(2 * size, np.float32), np.zeros(2 * size, np.float32)
    for column in range(1, last + 1):
        odd, at = column & 1, first + column * size
        if column < last:
            _blur_across(values, at, columns[column], straight, odd, (1 - odd, -odd), narrow, width)
        if column > 1:
            _blur_across(values, at - size, columns[column - 1], tilted, 1 - odd, (odd - 1, odd), narrow, width)
            _blur_along(values, at - size, columns[column - 1], narrow, width)


@inner_jit
def _blur_across(
    values: F32, at: Int, rows: I64, kept: F32, slot: Int, shifts: tuple[Int, Int], lanes: Size, width: Int
) -> None:
    """Blur a column, which begins at `at`, with the ones before and after it.

    `kept` has two slots of one column: the other one holds the column before as it was, `slot` gets this one. The
    neighbours of a row are `shifts` rows further down, in the column before and after.
    """
    size = len(kept) // 2
    for k in range(0, size, constant(lanes)):
        store(kept, slot * size + k, load(values, at + k, lanes))
    half = broadcast(np.float32(0.5), lanes)
    before, after = (1 - slot) * size + shifts[0] * constant(width), at + size + shifts[1] * constant(width)
    for k in range(rows[0] * constant(width), rows[1] * constant(width), constant(lanes)):
        neighbours = add(load(kept, before + k, lanes), load(values, after + k, lanes))
        store(values, at + k, multiply_add(half, neighbours, load(values, at + k, lanes)))


@inner_jit
def _blur_along(values: F32, at: Int, rows: I64, lanes: Size, width: Int) -> None:
    """Blur a column, which begins at `at`, with itself."""
    half = broadcast(np.float32(0.5), lanes)
    for k in range(0, constant(width), constant(lanes)):
        previous = broadcast(np.float32(0.0), lanes)
        current = load(values, at + rows[0] * constant(width) + k, lanes)
        for place in range(at + rows[0] * constant(width) + k, at + rows[1] * constant(width), constant(width)):
            following = load(values, place + constant(width), lanes)
            store(values, place, multiply_add(half, add(previous, following), current))
            previous, current = current, following
