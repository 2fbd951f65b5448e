"""Mean field on the CPU: one image on one thread, the images of a batch on several.

The compiled code runs without the GIL, so a plain thread pool uses all cores; numba's own threading layer, which
clashes with torch's, is not used. `NUMBA_NUM_THREADS` limits the threads. README.md in this folder says which file
does what.
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
from weakclip.crf.cpu.field import LatticeField, pixel_field, tile_order
from weakclip.crf.cpu.filter import mean_field, slice_rows, splat_rows
from weakclip.crf.cpu.rows import fill_planes, fill_probabilities, fill_rows, find_equal_planes
from weakclip.crf.cpu.simd import size_of
from weakclip.crf.cpu.structures import F32, I64, Planes, RowShape
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
            workspace.trim()

    workers = min(len(images), threads or _NUMBA_SETTINGS.NUMBA_NUM_THREADS)
    helpers = [_pool(workers - 1).submit(work) for _ in range(workers - 1)] if workers > 1 else []
    try:
        work()
    finally:
        pending.clear()
        if helpers:  # to wait for nobody takes longer than to ask
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


def infer_image(image: np.ndarray, probs: F32, params: CRFParams, *, log_probs: bool, out: F32) -> None:
    """Marginals of one image `(H, W, C)` into `out`, `(K, H, W)`; arguments as in `infer_batch`."""
    num_labels, height, width = probs.shape
    planes, result, order = probs.reshape(num_labels, -1), out.reshape(num_labels, -1), tile_order(height, width)
    potts = _is_potts(params)
    distinct, column = _merge_equal_planes(planes) if potts else (np.arange(num_labels), np.arange(num_labels))
    shape = _row_shape(len(distinct))
    padded = len(shape.lanes) * len(shape.blocks)
    counts = np.bincount(column, minlength=padded).astype(np.float32)
    number = len(order) * padded
    flat = workspace.take("rows", (number + _PADDING,), np.float32)
    flat[number:] = 1
    rows = flat[:number]
    source = (planes.ravel(), distinct, order)
    if log_probs:
        fill_rows(source, rows, padded)
    else:
        # In vectors of 8 at most, whatever the width: fewer variants to compile.
        sizes = (size_of(min(padded, 8)), size_of(-(-padded // 8)))
        check_range(*fill_probabilities(source, rows, counts, *sizes))
    marginals = Planes(result.ravel(), distinct, order)
    done = potts and not log_probs and params.iterations > 0 and len(params.kernels) > 0
    if done:
        field = pixel_field(image, params.kernels, padded)
        done = _potts_mean_field(flat, counts, field, iterations=params.iterations, marginals=marginals, shape=shape)
    if not done:
        table = rows.reshape(-1, padded)
        found = _mean_field(table if log_probs else _log(table), counts, image, params, num_labels)
        fill_planes(found.ravel(), 0, 0, len(order), tuple(marginals), padded)
    for label, first in enumerate(distinct[column].tolist()):
        if first != label:
            result[label] = result[first]


def _is_potts(params: CRFParams) -> bool:
    return all(not isinstance(kernel.weight, tuple) for kernel in params.kernels)


def _row_shape(num_labels: int) -> RowShape:
    """Rows of 4 floats, or of the next multiple of 8, as one vector if that is not too wide."""
    width = 4 if num_labels <= 4 else -(-num_labels // 8) * 8
    whole = width if width <= _WIDEST else 8
    return RowShape(lanes=size_of(whole), blocks=size_of(width // whole), narrow=size_of(min(width, 8)))


def _merge_equal_planes(planes: F32) -> tuple[I64, I64]:
    """Labels whose planes, of `(K, N)`, are equal everywhere share one column of the mean field; this is exact.

    Their marginals stay equal in every iteration (Potts, the same messages), so one column counts several times in the
    softmax's sum. Classes absent from an image, held at a common floor, then cost next to nothing.

    Returns:
        The first plane of each kind, `(D,)` ascending, and which of the D kinds each plane is, `(K,)`.
    """
    distinct, column = np.empty(len(planes), np.int64), np.empty(len(planes), np.int64)
    count = find_equal_planes(planes.ravel(), distinct, column)
    return distinct[:count], column


def _potts_mean_field(
    probs: F32, counts: F32, field: LatticeField, *, iterations: int, marginals: Planes, shape: RowShape
) -> bool:
    """Marginals from `probs`, `(N · padded labels + _PADDING,)`, to `marginals`.

    False where that overflowed: kernels so strong that a message exceeds 88.
    """
    size = (field.num_vertices * field.width,)
    tables = (workspace.take("values", size, np.float32), workspace.take("next values", size, np.float32))
    lattices = tuple(tuple(lattice) for lattice in field.lattices)
    groups = (tuple(field.terms), lattices, tables, iterations, tuple(marginals), tuple(shape))
    return bool(mean_field(probs, counts, *groups))


def _log(rows: F32) -> F32:
    with np.errstate(divide="ignore"):
        return np.log(rows)  # −inf for padding and for impossible labels, whose marginal stays 0


def _mean_field(log_probs: F32, counts: F32, image: np.ndarray, params: CRFParams, num_labels: int) -> F32:
    """Any compatibility, and messages of any size: kernel by kernel, with the largest exponent subtracted."""
    width, potts = len(counts), _is_potts(params)
    part = size_of(min(width, 8))
    shape = tuple(RowShape(lanes=part, blocks=size_of(width // len(part)), narrow=part))
    fields = [pixel_field(image, (kernel,), width, normalised_only=True).copy() for kernel in params.kernels]
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
            values, terms = np.zeros(field.num_vertices * width, np.float32), tuple(field.terms)
            splat_rows(values, terms, 0, len(marginals), marginals.ravel(), 0, shape)
            field.blur(values)
            slice_rows(values, terms, 0, len(marginals), message.ravel(), 0, shape)
            energy -= message @ matrix
        marginals = _softmax(energy, counts)
    return marginals


def _softmax(energy: F32, counts: F32) -> F32:
    """Over the last axis, each column standing for `counts` labels."""
    exponentials = np.exp(energy - energy.max(axis=1, keepdims=True))
    return exponentials / (exponentials @ counts)[:, None]
