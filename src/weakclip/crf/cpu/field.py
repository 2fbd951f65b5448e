"""All kernels of one image as the inner loops see them: each pixel's vertices and weights, and the lattices to blur."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from weakclip.crf.cpu import filter as cpu_filter
from weakclip.crf.cpu import rows as cpu_rows
from weakclip.crf.cpu.lattice import BLOCK, Lattice, Place, Terms, build_lattice
from weakclip.crf.cpu.simd import size_of
from weakclip.crf.cpu.workspace import workspace
from weakclip.crf.features import colour_widths, feature_array, feature_spans, position_widths
from weakclip.crf.params import FeatureKernel, Kernel
from weakclip.errors import DataError

_MOST_VALUES = 2**32
TILE = 16
"""Pixels a side of a tile; neighbours in the image are neighbours in memory."""


@dataclass(frozen=True)
class Field(Terms):
    """Terms over all kernels, each lattice with its first vertex in the table of values, and that table's shape."""

    lattices: tuple[tuple[Lattice, int], ...]
    num_vertices: int
    width: int

    def blur(self, values: np.ndarray) -> None:
        """Blur `values`, `(num_vertices · width,)`, in place."""
        for lattice, first_vertex in self.lattices:
            chains = (lattice.chain_vertices, lattice.chain_groups)
            cpu_filter.blur(values, first_vertex, *chains, size_of(min(self.width, 8)), self.width)

    def kept(self) -> Field:
        """The same in memory of its own."""
        lattices = tuple(
            (dataclasses.replace(lattice, chain_vertices=lattice.chain_vertices.copy()), first)
            for lattice, first in self.lattices
        )
        return dataclasses.replace(self, offsets=self.offsets.copy(), weights=self.weights.copy(), lattices=lattices)


@lru_cache(maxsize=8)
def tile_order(height: int, width: int) -> np.ndarray:
    """`(N,)` int32: the pixels, counted row by row, in the order of tiles."""
    y, x = np.mgrid[:height, :width]
    key = (y // TILE, x // TILE, y % TILE, x % TILE)
    return np.lexsort([part.ravel() for part in reversed(key)]).astype(np.int32)


def pixel_field(
    image: np.ndarray, kernels: Sequence[Kernel | FeatureKernel], width: int, *, normalised_only: bool = False
) -> Field:
    """The field of `image`, `(H, W, C)` float32, for `width` labels; valid until the thread's next call.

    The weights have the symmetric normalisation in them and, unless `normalised_only`, the square root of each
    kernel's strength, so that slicing with the weights that splatted gives the finished message.
    """
    size = image.shape[:2]
    counts = [_dimensions(kernel, image.shape[2]) + 1 for kernel in kernels]
    shape = (size[0] * size[1], sum(counts))
    terms = Terms(workspace.take("offsets", shape, np.uint32), workspace.take("weights", shape, np.float32))
    lattices: list[tuple[Lattice, int]] = []
    column = first_vertex = 0
    for kernel, count in zip(kernels, counts, strict=True):
        strength = 1.0 if normalised_only or isinstance(kernel.weight, tuple) else kernel.weight
        place = Place(column, first_vertex, width, strength)
        if isinstance(kernel, Kernel) and kernel.srgb is None:
            lattice, kept = _spatial_lattice(*size, position_widths(kernel))
            arrays = (kept.offsets.ravel(), kept.weights.ravel(), terms.offsets.ravel(), terms.weights.ravel())
            cpu_rows.copy_terms(*arrays, column, shape[1], size_of(count), first_vertex, width, np.float32(strength))
        else:
            lattice = build_lattice(*_features(kernel, image), terms, place)
        lattices.append((lattice, first_vertex))
        first_vertex += lattice.num_vertices
        column += count
    if first_vertex * width >= _MOST_VALUES:
        raise DataError(
            f"dense CRF: an image of {size[0]}×{size[1]} with {width} distinct labels needs "
            f"{first_vertex * width} values, more than {_MOST_VALUES}; make the image smaller"
        )
    return Field(terms.offsets, terms.weights, tuple(lattices), first_vertex, width)


def _dimensions(kernel: Kernel | FeatureKernel, channels: int) -> int:
    if isinstance(kernel, FeatureKernel):
        return len(kernel.features)
    return 2 if kernel.srgb is None else 2 + channels


def _features(kernel: Kernel | FeatureKernel, image: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """`(d, N padded to BLOCK)` float32 in the order of tiles, and the range of each."""
    height, width, channels = image.shape
    number = height * width
    shape = (_dimensions(kernel, channels), number + -number % BLOCK)
    features = workspace.take("first", shape, np.float32)
    features[:, number:] = 0
    if isinstance(kernel, FeatureKernel):
        given = feature_array(kernel).reshape(shape[0], -1)
        features[:, :number] = given[:, tile_order(height, width)]
        return features, tuple((given.max(axis=1, initial=0) - given.min(axis=1, initial=0)).tolist())
    places = _scaled_positions(height, width, position_widths(kernel))
    colours = (image.ravel(), *_levels(kernel, channels if kernel.srgb else 0))
    cpu_rows.fill_features(*places, *colours, features.ravel(), shape[1], TILE)
    return features, feature_spans(kernel, height, width, channels)


@lru_cache(maxsize=8)
def _scaled_positions(height: int, width: int, widths: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Each column's and each row's place in standard deviations, float32."""
    x, y = (np.arange(n, dtype=np.float32) / np.float32(s) for n, s in zip((width, height), widths, strict=True))
    return x, y


@lru_cache(maxsize=8)
def _levels(kernel: Kernel, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of `C` channels, `(C,)`, and the levels 0…255 of every channel over them, `(C · 256,)`, float32."""
    widths = np.ascontiguousarray(colour_widths(kernel, channels)) if channels else np.empty(0, np.float32)
    return widths, (np.arange(256, dtype=np.float32)[None] / widths[:, None]).ravel()


@lru_cache(maxsize=8)
def _spatial_lattice(height: int, width: int, widths: tuple[float, float]) -> tuple[Lattice, Terms]:
    """The lattice of a Gaussian kernel depends on the image's size only. What it holds is never written to."""
    shape = (height * width, 3)
    terms = Terms(np.empty(shape, np.uint32), np.empty(shape, np.float32))
    features = _features(Kernel(sxy=widths, weight=1.0), np.empty((height, width, 0), np.uint8))
    lattice = build_lattice(*features, terms, Place(column=0, first_vertex=0, width=1, strength=1.0))
    return dataclasses.replace(lattice, chain_vertices=lattice.chain_vertices.copy()), terms
