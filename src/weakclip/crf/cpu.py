"""Mean field on the CPU: one image on one thread, the images of a batch on several.

The compiled code lives in `cpu_lattice` (which vertices there are) and `cpu_filter` (the loops over labels). It runs
without the GIL, so a plain thread pool uses all cores; numba's own threading layer, which clashes with torch's, is
not used. `NUMBA_NUM_THREADS` limits the threads.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from weakclip.crf import cpu_filter
from weakclip.crf.cpu_lattice import Lattice, build_lattice
from weakclip.crf.features import blur_gain, feature_spans
from weakclip.crf.labels import merge_equal_planes
from weakclip.crf.params import CRFParams, Kernel
from weakclip.crf.simd import LANES

_NUMBA_SETTINGS: Any = numba.config  # its attributes are made from the environment


def infer_batch(images: np.ndarray, probs: np.ndarray, params: CRFParams, *, threads: int | None = None) -> np.ndarray:
    """Marginals of a batch.

    Args:
        images: `(B, H, W, 3)` float32, levels 0…255.
        probs: `(B, K, H, W)` float32, normalised over K.
        params: kernels and iterations.
        threads: how many images to work on at once; None uses all cores (`NUMBA_NUM_THREADS`).

    Returns:
        `(B, K, H, W)` float32.
    """
    result = np.empty(probs.shape, dtype=np.float32)

    def infer_into(index: int) -> None:
        result[index] = infer_image(images[index], probs[index], params)

    workers = min(len(images), threads or _NUMBA_SETTINGS.NUMBA_NUM_THREADS)
    if workers <= 1:
        for index in range(len(images)):
            infer_into(index)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(infer_into, range(len(images))))
    return result


def infer_image(image: np.ndarray, probs: np.ndarray, params: CRFParams) -> np.ndarray:
    """Marginals `(K, H, W)` of one image `(H, W, 3)`; arguments as in `infer_batch`."""
    num_labels, height, width = probs.shape
    distinct, column = merge_equal_planes(probs.reshape(num_labels, -1))
    padded = -(-len(distinct) // LANES) * LANES
    marginals = np.zeros((height * width, padded), dtype=np.float32)
    marginals[:, : len(distinct)] = probs.reshape(num_labels, -1)[distinct].T
    counts = np.zeros((1, padded), dtype=np.float32)
    counts[0, : len(distinct)] = np.bincount(column)
    _mean_field(marginals, counts, _normalised_lattices(image, params.kernels), params.iterations)
    return marginals.T[column].reshape(probs.shape)


def _mean_field(
    marginals: np.ndarray, counts: np.ndarray, lattices: list[tuple[Lattice, np.ndarray]], iterations: int
) -> None:
    """Iterate `marginals`, `(N, padded labels)`, in place: `softmax(log p + Σ messages)`."""
    if iterations == 0 or not lattices:
        return
    first_rows = np.cumsum([0, *(lattice.num_vertices for lattice, _ in lattices)])
    starts = first_rows[:-1].astype(np.int32)
    vertices = np.concatenate([x.vertices + start for (x, _), start in zip(lattices, starts, strict=True)], axis=1)
    weights = np.concatenate([scaled for _, scaled in lattices], axis=1)
    with np.errstate(divide="ignore"):
        log_probs = np.log(marginals)  # −inf for padding and for impossible labels, whose marginal stays 0
    values = np.zeros((first_rows[-1], marginals.shape[1]), dtype=np.float32)
    target = np.empty_like(values)
    cpu_filter.splat(values, vertices, weights, marginals)
    for iteration in range(iterations):
        for (lattice, _), start in zip(lattices, first_rows, strict=False):
            cpu_filter.blur(values, start, lattice.chain_vertices, lattice.chain_starts)
        if iteration + 1 < iterations:
            target.fill(0)
            cpu_filter.update_and_splat(values, vertices, weights, log_probs, counts, target)
            values, target = target, values
    cpu_filter.update(values, vertices, weights, log_probs, counts, marginals)


def _normalised_lattices(image: np.ndarray, kernels: tuple[Kernel, ...]) -> list[tuple[Lattice, np.ndarray]]:
    """Each kernel's lattice, with its weights times `√(weight · gain) / √norm` (the symmetric normalisation)."""
    height, width, _ = image.shape
    result = []
    for kernel in kernels:
        if kernel.srgb is None:
            lattice, scale = _spatial_lattice(height, width, kernel.sxy)
        else:
            colours = image.reshape(-1, 3) / np.float32(kernel.srgb)
            features = np.concatenate([_positions(height, width, kernel.sxy), colours], axis=1)
            lattice, scale = _with_norm(features, feature_spans(kernel, height, width))
        result.append((lattice, lattice.weights * (scale * np.float32(math.sqrt(kernel.weight)))[:, None]))
    return result


def _positions(height: int, width: int, sxy: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(sxy)
    return np.stack([x.ravel(), y.ravel()], axis=1)


@lru_cache(maxsize=8)
def _spatial_lattice(height: int, width: int, sxy: float) -> tuple[Lattice, np.ndarray]:
    """The lattice of a Gaussian kernel depends on the image's size only. What it holds is never written to."""
    spans = feature_spans(Kernel(sxy=sxy, weight=1.0), height, width)
    return _with_norm(_positions(height, width, sxy), spans)


def _with_norm(features: np.ndarray, spans: list[float]) -> tuple[Lattice, np.ndarray]:
    """A lattice and, for every pixel, `√(gain / norm)`, norm being the filter's response to ones."""
    lattice = build_lattice(features, spans)
    values = np.zeros((lattice.num_vertices, LANES), dtype=np.float32)
    ones = np.ones((len(features), LANES), dtype=np.float32)
    cpu_filter.splat(values, lattice.vertices, lattice.weights, ones)
    cpu_filter.blur(values, 0, lattice.chain_vertices, lattice.chain_starts)
    norm = cpu_filter.slice_first_label(values, 0, lattice.vertices, lattice.weights)
    gain = np.float32(blur_gain(features.shape[1]))
    return lattice, np.sqrt(gain) / np.sqrt(gain * norm + np.float32(1e-20))
