"""All kernels of one image as the inner loops see them: each pixel's vertices and weights, and the lattices to blur."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from weakclip.crf.cpu.filter import blur
from weakclip.crf.cpu.grid import as_grid
from weakclip.crf.cpu.lattice import BLOCK, build_lattice
from weakclip.crf.cpu.rows import copy_terms, fill_features
from weakclip.crf.cpu.simd import size_of
from weakclip.crf.cpu.structures import F32, I32, Lattice, PixelTerms, Target
from weakclip.crf.cpu.workspace import cache, workspace
from weakclip.crf.features import colour_widths, feature_array, feature_spans, position_widths
from weakclip.crf.params import FeatureKernel, Kernel
from weakclip.errors import DataError

_MOST_VALUES = 2**32
TILE = 16
"""Pixels a side of a tile; neighbours in the image are neighbours in memory."""


class LatticeField(NamedTuple):
    """The terms over all kernels and their lattices, whose values lie in one table of `num_vertices` rows."""

    terms: PixelTerms
    lattices: tuple[Lattice, ...]
    num_vertices: int
    width: int

    def blur(self, values: F32) -> None:
        """Blur `values`, `(num_vertices · width,)`, in place."""
        for lattice in self.lattices:
            blur(values, tuple(lattice), size_of(min(self.width, 8)), self.width)

    def copy(self) -> LatticeField:
        """The same in memory of its own."""
        offsets, weights, size = self.terms
        terms = PixelTerms(offsets.copy(), weights.copy(), size)
        return self._replace(terms=terms, lattices=tuple(_copy(lattice) for lattice in self.lattices))


def _copy(lattice: Lattice) -> Lattice:
    return lattice._replace(chain_vertices=lattice.chain_vertices.copy())


def tile_order(height: int, width: int) -> I32:
    """`(N,)`: the pixels, counted row by row, in the order of tiles."""

    def make() -> I32:
        y, x = np.mgrid[:height, :width]
        key = (y // TILE, x // TILE, y % TILE, x % TILE)
        return np.lexsort([part.ravel() for part in reversed(key)]).astype(np.int32)

    return cache.get(("tile order", height, width), make)


def pixel_field(
    image: np.ndarray, kernels: Sequence[Kernel | FeatureKernel], width: int, *, normalised_only: bool = False
) -> LatticeField:
    """The field of `image`, `(H, W, C)`, for rows of `width` labels; valid until the thread's next call.

    The weights have the symmetric normalisation in them and, unless `normalised_only`, the square root of each
    kernel's strength, so that slicing with the weights that splatted gives the finished message.
    """
    height, columns = image.shape[:2]
    counts = [_dimensions(kernel, image.shape[2]) + 1 for kernel in kernels]
    num_terms = sum(counts)
    length = height * columns * num_terms
    offsets, weights = workspace.take("offsets", (length,), np.uint32), workspace.take("weights", (length,), np.float32)
    lattices: list[Lattice] = []
    column = first_vertex = 0
    for kernel, count in zip(kernels, counts, strict=True):
        strength = np.float32(1.0 if normalised_only or isinstance(kernel.weight, tuple) else kernel.weight)
        target = Target(offsets, weights, num_terms, column, first_vertex, width, strength)
        if isinstance(kernel, Kernel) and kernel.srgb is None:
            lattice, terms = _spatial_lattice(height, columns, position_widths(kernel))
            copy_terms(tuple(terms), tuple(target))
            lattice = lattice._replace(first_vertex=first_vertex)
        else:
            lattice = build_lattice(*_features(kernel, image), target)
        lattices.append(lattice)
        first_vertex += lattice.num_vertices
        column += count
    if first_vertex * width >= _MOST_VALUES:
        raise DataError(
            f"dense CRF: an image of {height}×{columns} with {width} distinct labels needs "
            f"{first_vertex * width} values, more than {_MOST_VALUES}; make the image smaller"
        )
    terms = PixelTerms(offsets, weights, size_of(num_terms))
    return LatticeField(terms, tuple(lattices), first_vertex, width)


def _dimensions(kernel: Kernel | FeatureKernel, channels: int) -> int:
    if isinstance(kernel, FeatureKernel):
        return len(kernel.features)
    return 2 if kernel.srgb is None else 2 + channels


def _features(kernel: Kernel | FeatureKernel, image: np.ndarray) -> tuple[F32, tuple[float, ...]]:
    """`(d, N padded to BLOCK)` in the order of tiles, and the range of each."""
    height, width, channels = image.shape
    number = height * width
    shape = (_dimensions(kernel, channels), number + -number % BLOCK)
    features = workspace.take("features", shape, np.float32, instead_of="values")
    features[:, number:] = 0
    if isinstance(kernel, FeatureKernel):
        given = feature_array(kernel).reshape(shape[0], -1)
        features[:, :number] = given[:, tile_order(height, width)]
        return features, tuple((given.max(axis=1, initial=0) - given.min(axis=1, initial=0)).tolist())
    places = _scaled_positions(height, width, position_widths(kernel))
    colours = (image.ravel(), *_levels(kernel, channels if kernel.srgb else 0))
    fill_features(*places, *colours, features.ravel(), shape[1], TILE)
    return features, feature_spans(kernel, height, width, channels)


@lru_cache(maxsize=8)
def _scaled_positions(height: int, width: int, widths: tuple[float, float]) -> tuple[F32, F32]:
    """Each column's and each row's place in standard deviations."""
    sx, sy = np.float32(widths[0]), np.float32(widths[1])
    return np.arange(width, dtype=np.float32) / sx, np.arange(height, dtype=np.float32) / sy


@lru_cache(maxsize=8)
def _levels(kernel: Kernel, channels: int) -> tuple[F32, F32]:
    """Deviations of `C` channels, `(C,)`, and the levels 0…255 of every channel over them, `(C · 256,)`."""
    widths: F32 = np.empty(0, np.float32)
    if channels:
        widths = np.ascontiguousarray(colour_widths(kernel, channels))
    levels: F32 = np.arange(256, dtype=np.float32) / widths[:, None]
    return widths, levels.ravel()


def _spatial_lattice(height: int, width: int, widths: tuple[float, float]) -> tuple[Lattice, PixelTerms]:
    """The lattice of a Gaussian kernel depends on the image's size only, so it is kept; nobody writes to it."""

    def make() -> tuple[Lattice, PixelTerms]:
        length = 3 * height * width
        terms = PixelTerms(np.empty(length, np.uint32), np.empty(length, np.float32), size_of(3))
        features = _features(Kernel(sxy=widths, weight=1.0), np.empty((height, width, 0), np.uint8))
        target = Target(*terms[:2], num_terms=3, column=0, first_vertex=0, width=1, strength=np.float32(1.0))
        codes = np.empty(3 * (height * width + 1), np.int64)
        lattice = build_lattice(*features, target, codes)
        count = lattice.num_vertices
        # With few vertices the blur costs little, and those in the order of the pixels are read and written faster.
        grid = as_grid(codes[:count], features[1]) if 2 * count > height * width else None
        if grid is None:
            return _copy(lattice), terms
        places, columns, rows = grid
        terms = terms._replace(offsets=places.astype(np.uint32)[terms.offsets])
        return Lattice(len(columns) * rows, 0, np.empty(0, np.int32), np.empty((0, 2), np.int64), columns), terms

    return cache.get(("spatial lattice", height, width, widths), make)
