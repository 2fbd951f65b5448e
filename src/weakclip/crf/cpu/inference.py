"""Mean field on the CPU: one image on one thread, the images of a batch on several.

The compiled code lives in `cpu.lattice` and `cpu.chains` (which vertices there are, and how they are linked),
`cpu.rows` (what is done once an image) and `cpu.filter` (the loops over labels). It runs without the GIL, so a plain
thread pool uses all cores; numba's own threading layer, which clashes with torch's, is not used. `NUMBA_NUM_THREADS`
limits the threads.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from weakclip.crf.checks import check_range
from weakclip.crf.cpu import filter as cpu_filter
from weakclip.crf.cpu import rows as cpu_rows
from weakclip.crf.cpu.field import Field, pixel_field, tile_order
from weakclip.crf.cpu.simd import size_of
from weakclip.crf.cpu.workspace import workspace
from weakclip.crf.features import label_costs
from weakclip.crf.params import CRFParams, FeatureKernel

_NUMBA_SETTINGS: Any = numba.config  # its attributes are made from the environment
_WIDEST = 32  # labels that are worked on as one vector
_PADDING = 16  # probabilities that are worked on at once, at the end even beyond the last


def infer_batch(
    images: np.ndarray, probs: np.ndarray, params: CRFParams, *, log_probs: bool = False, threads: int | None = None
) -> np.ndarray:
    """Marginals of a batch.

    Args:
        images: `(B, H, W, C)` uint8 or float32, levels 0…255.
        probs: `(B, K, H, W)` float32; checked, and normalised over K.
        params: kernels and iterations.
        log_probs: whether `probs` holds logarithms, which are taken as they are.
        threads: how many images to work on at once; None uses all cores (`NUMBA_NUM_THREADS`).

    Returns:
        `(B, K, H, W)` float32.

    Raises:
        DataError: probabilities that are negative, not finite, or do not sum to one.
    """
    result = np.empty(probs.shape, dtype=np.float32)
    pending = deque(range(len(images)))

    def work() -> None:
        while pending:
            try:
                index = pending.popleft()
            except IndexError:  # another thread took the last one
                return
            infer_image(images[index], probs[index], _of_image(params, index), log_probs=log_probs, out=result[index])

    workers = min(len(images), threads or _NUMBA_SETTINGS.NUMBA_NUM_THREADS)
    helpers = [_pool(workers - 1).submit(work) for _ in range(workers - 1)] if workers > 1 else []
    try:
        work()
    finally:
        pending.clear()
        wait(helpers)
    for helper in helpers:
        helper.result()
    return result


@lru_cache(maxsize=4)
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay, and with them what they keep in their workspace."""
    return ThreadPoolExecutor(workers, thread_name_prefix="dense-crf")


if hasattr(os, "register_at_fork"):  # a forked process has none of these threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _of_image(params: CRFParams, index: int) -> CRFParams:
    """The same, with the features of one image of the batch."""
    if not any(isinstance(kernel, FeatureKernel) for kernel in params.kernels):
        return params
    kernels = tuple(
        FeatureKernel(features=kernel.features[index], weight=kernel.weight)
        if isinstance(kernel, FeatureKernel) and kernel.features.ndim == 4
        else kernel
        for kernel in params.kernels
    )
    return CRFParams(kernels=kernels, iterations=params.iterations)


def infer_image(image: np.ndarray, probs: np.ndarray, params: CRFParams, *, log_probs: bool, out: np.ndarray) -> None:
    """Marginals of one image `(H, W, C)` into `out`, `(K, H, W)`; arguments as in `infer_batch`."""
    num_labels, height, width = probs.shape
    planes, result, order = probs.reshape(num_labels, -1), out.reshape(num_labels, -1), tile_order(height, width)
    potts = all(not isinstance(kernel.weight, tuple) for kernel in params.kernels)
    distinct, column = _merge_equal_planes(planes) if potts else (np.arange(num_labels), np.arange(num_labels))
    lanes = 4 if len(distinct) <= 4 else 8
    padded = -(-len(distinct) // lanes) * lanes
    counts = np.bincount(column, minlength=padded).astype(np.float32)
    number = len(order) * padded
    flat = workspace.take("rows", (number + _PADDING,), np.float32)
    flat[number:] = 1
    rows = flat[:number]
    if log_probs:
        cpu_rows.fill_rows(planes.ravel(), distinct, order, rows, padded)
    else:
        sizes = (size_of(lanes), size_of(padded // lanes))
        check_range(*cpu_rows.fill_probabilities(planes.ravel(), distinct, order, rows, counts, *sizes))
    outcome = (order, distinct, result.ravel())
    done = potts and not log_probs and params.iterations > 0 and len(params.kernels) > 0
    if done:
        field = pixel_field(image, params.kernels, padded)
        done = _potts_mean_field(flat, counts, field, params.iterations, outcome)
    if not done:
        table = rows.reshape(-1, padded)
        marginals = _mean_field(table if log_probs else _log(table), counts, image, params, num_labels)
        cpu_rows.fill_planes(marginals.ravel(), 0, 0, len(order), *outcome, padded)
    for label, first in enumerate(distinct[column].tolist()):
        if first != label:
            result[label] = result[first]


def _merge_equal_planes(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose planes, of `(K, N)`, are equal everywhere share one column of the mean field; this is exact.

    Their marginals stay equal in every iteration (Potts, the same messages), so one column counts several times in the
    softmax's sum. Classes absent from an image, held at a common floor, then cost next to nothing.

    Returns:
        The first plane of each kind, `(D,)` int64 ascending, and which of the D kinds each plane is, `(K,)` int64.
    """
    distinct, column = np.empty(len(planes), np.int64), np.empty(len(planes), np.int64)
    count = cpu_rows.find_equal_planes(planes.ravel(), distinct, column)
    return distinct[:count], column


def _potts_mean_field(
    probs: np.ndarray, counts: np.ndarray, field: Field, iterations: int, outcome: tuple[np.ndarray, ...]
) -> bool:
    """Marginals from `probs`, `(N · padded labels + _PADDING,)`, to `outcome`, the last arguments of `fill_planes`.

    False where that overflowed: kernels so strong that a message exceeds 88.
    """
    width = len(counts)
    whole = width if width <= _WIDEST else 8
    shape = (field.num_vertices * width,)
    lattices, first_vertices = zip(*field.lattices, strict=True)
    return bool(
        cpu_filter.mean_field(
            probs,
            counts,
            field.offsets.ravel(),
            field.weights.ravel(),
            tuple(lattice.chain_vertices for lattice in lattices),
            tuple(lattice.chain_groups for lattice in lattices),
            first_vertices,
            (workspace.take("first", shape, np.float32), workspace.take("second", shape, np.float32)),
            iterations,
            *outcome,
            *(size_of(min(width, 8)), size_of(whole), size_of(width // whole), size_of(field.offsets.shape[1])),
        )
    )


def _log(rows: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(rows)  # −inf for padding and for impossible labels, whose marginal stays 0


def _mean_field(
    log_probs: np.ndarray, counts: np.ndarray, image: np.ndarray, params: CRFParams, num_labels: int
) -> np.ndarray:
    """Any compatibility, and messages of any size: kernel by kernel, with the largest exponent subtracted."""
    width, potts = len(counts), all(not isinstance(kernel.weight, tuple) for kernel in params.kernels)
    sizes = (size_of(4 if width == 4 else 8), size_of(width // (4 if width == 4 else 8)))
    fields = [pixel_field(image, (kernel,), width, normalised_only=True).kept() for kernel in params.kernels]
    costs = [np.zeros((width, width), np.float32) for _ in fields]
    for matrix, kernel in zip(costs, params.kernels, strict=True):
        if potts:
            matrix[:] = label_costs(kernel.weight, width)
        else:
            matrix[:num_labels, :num_labels] = label_costs(kernel.weight, num_labels)
    log_probs = np.where(counts > 0, log_probs, -np.inf)
    marginals, message = _softmax(log_probs, counts), np.empty_like(log_probs)
    for _ in range(params.iterations):
        energy = log_probs.copy()
        for field, matrix in zip(fields, costs, strict=True):
            terms = (field.offsets.ravel(), field.weights.ravel())
            values = np.zeros(field.num_vertices * width, np.float32)
            term_size = size_of(field.offsets.shape[1])
            everything = (0, len(field.offsets))
            cpu_filter.splat_rows(values, *terms, *everything, marginals.ravel(), 0, *sizes, term_size)
            field.blur(values)
            cpu_filter.slice_rows(values, *terms, *everything, message.ravel(), 0, *sizes, term_size)
            energy -= message @ matrix
        marginals = _softmax(energy, counts)
    return marginals


def _softmax(energy: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Over the last axis, each column standing for `counts` labels."""
    exponentials = np.exp(energy - energy.max(axis=1, keepdims=True))
    return exponentials / (exponentials @ counts)[:, None]
