"""Named groups of the arrays that compiled functions take, and the names of their types.

numba passes a NamedTuple by its fields, at no cost inside compiled code. From Python a plain tuple arrives 5 µs sooner:
functions that are called once an image are given `tuple(group)` and name the fields again themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U32: TypeAlias = NDArray[np.uint32]
U8: TypeAlias = NDArray[np.uint8]
Int: TypeAlias = int | np.integer[Any]
Float: TypeAlias = float | np.floating[Any]
Size: TypeAlias = tuple[int, ...]
"""A number known to the compiler: a tuple of that length, made by `simd.size_of` and read by `simd.constant`."""
Lanes: TypeAlias = Any
"""A `simd.Vector` of float32 or int64."""


class PixelTerms(NamedTuple):
    """The vertices to which each pixel is written and from which it is read, over all kernels.

    Args:
        offsets: `(N · terms,)`, where in the table of values a vertex begins.
        weights: `(N · terms,)`, with which a pixel is written and read.
        size: `terms`, the sum of d + 1 over all kernels.
    """

    offsets: U32
    weights: F32
    size: Size


class Lattice(NamedTuple):
    """The vertices of a lattice as the blur sees them.

    Args:
        num_vertices: V.
        first_vertex: where they begin in the table of all lattices' values.
        chain_vertices: runs of vertices that follow each other along an axis; axis after axis, and for each axis by
            ascending length. A vertex without a neighbour along an axis is in no run of that axis: the blur leaves
            it as it is.
        chain_groups: `(G, 2)`, `(length, number of runs)` for the runs of equal length that follow each other.
        columns: `(C, 2)`, of a grid, which has no chains: the first row of each column and the one after its last, of
            `V / C` rows (see `grid`). Empty for others.
    """

    num_vertices: int
    first_vertex: int
    chain_vertices: I32
    chain_groups: I64
    columns: I64


class RowShape(NamedTuple):
    """How a row of labels is worked on: `width = lanes · blocks` floats.

    Args:
        lanes: labels in one vector.
        blocks: vectors in a row.
        narrow: labels in one vector where 8 at most are fastest.
    """

    lanes: Size
    blocks: Size
    narrow: Size


class Planes(NamedTuple):
    """Label planes of an image, `(K, N)`, and which of them and of their pixels the rows of labels stand for.

    Args:
        planes: `(K · N,)`.
        distinct: the plane of each column of a row.
        order: `(N,)`, the pixel of each row.
    """

    planes: F32
    distinct: I64
    order: I32


class Points(NamedTuple):
    """The points of one kernel, to be embedded in its lattice.

    Args:
        features: `(d · padded,)` in standard deviations, feature after feature.
        padded: points for which there is room, a multiple of `lattice.BLOCK`.
        num_pixels: N.
        num_points: N, or N + 1 with a phantom at the origin (see `features.has_phantom`).
    """

    features: F32
    padded: int
    num_pixels: int
    num_points: int


class Axes(NamedTuple):
    """Numbers of a lattice that depend on its dimensions and spans only.

    Args:
        scale: `(d,)`, what the features are multiplied by.
        strides: `(d + 1,)`, what turns coordinates into a code (see `features.key_strides`).
        steps: `(d + 1,)`, from a vertex's code to that of its next along each axis.
    """

    scale: F32
    strides: I64
    steps: I64


class Target(NamedTuple):
    """Where among all kernels' terms and vertices those of one kernel go.

    Args:
        offsets: as in `PixelTerms`.
        weights: as in `PixelTerms`.
        num_terms: terms of a pixel over all kernels.
        column: the kernel's first term.
        first_vertex: its first vertex in the table of values.
        width: floats that a vertex has in that table.
        strength: √strength goes into the weights.
    """

    offsets: U32
    weights: F32
    num_terms: int
    column: int
    first_vertex: int
    width: int
    strength: np.float32


class Vertices(NamedTuple):
    """The vertices that were found so far.

    Args:
        codes: `(most,)`, of each vertex.
        ones: `(most,)`, what each vertex holds when every pixel is one.
        table: open-addressing hash table of a power of two of slots: a vertex, or −1.
    """

    codes: I64
    ones: F32
    table: I32


class Block(NamedTuple):
    """The simplices of `BLOCK` pixels while they are embedded; every array is `((d + 1) · BLOCK,)`.

    Args:
        points: a point's distance from `origins` along each axis, in sides of a simplex.
        origins: the simplex's vertex of remainder 0.
        ranks: the order of the distances.
        codes: of the vertex of each remainder.
        slots: where in the hash table to begin looking for it.
        shares: its barycentric weight.
    """

    points: F32
    origins: F32
    ranks: F32
    codes: I64
    slots: I64
    shares: F32
