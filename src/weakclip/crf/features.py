"""Numbers that both lattices share: positions and colours as features, and one integer for each lattice vertex.

References:
    Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from weakclip.crf.params import FeatureKernel, Kernel, Weight
from weakclip.errors import DataError


def lattice_scale(dimensions: int) -> np.ndarray:
    """Factors that bring features of unit deviation to the lattice, whose blur has the deviation `√(2/3)·(d + 1)`.

    Args:
        dimensions: d, the number of features.

    Returns:
        `(d,)` float32: the diagonal of E in Adams et al. 2010, times that deviation.
    """
    deviation = float(np.float32(math.sqrt(2 / 3) * (dimensions + 1)))
    return np.array([deviation / math.sqrt((i + 1) * (i + 2)) for i in range(dimensions)], dtype=np.float32)


def has_phantom(num_points: int) -> bool:
    """Whether a point at the origin of all features is added to the lattice, of weight 0.

    The original implementation places points in groups of four and fills the last group with such points. The
    vertices that they add are empty, but the blur passes through them.
    """
    return num_points % 4 != 0


def position_widths(kernel: Kernel) -> tuple[float, float]:
    """Standard deviations along x and y."""
    return kernel.sxy if isinstance(kernel.sxy, tuple) else (kernel.sxy, kernel.sxy)


def colour_widths(kernel: Kernel, channels: int) -> np.ndarray:
    """Standard deviations of the colour channels, `(channels,)` float32; `kernel.srgb` must be there."""
    return np.broadcast_to(np.asarray(kernel.srgb, np.float32), (channels,))


@lru_cache(maxsize=64)
def feature_spans(kernel: Kernel, height: int, width: int, channels: int) -> tuple[float, ...]:
    """Range of each feature: x, y and, for a bilateral kernel, the colours of 0…255."""
    sx, sy = position_widths(kernel)
    spans = ((width - 1) / sx, (height - 1) / sy)
    return spans if kernel.srgb is None else (*spans, *(255.0 / colour_widths(kernel, channels).astype(float)).tolist())


def feature_array(kernel: FeatureKernel) -> np.ndarray:
    """The features as they were given, array or tensor of any kind, as a float32 array of its own memory order."""
    features = kernel.features
    if hasattr(features, "detach"):  # a torch tensor, wherever it is
        features = features.detach().float().cpu().numpy()
    return np.ascontiguousarray(features, np.float32)


def label_costs(weight: Weight, num_labels: int) -> np.ndarray:
    """The matrix `(K, K)` float32 of what labels cost each other, symmetric; see `Kernel`.

    Raises:
        DataError: a vector or matrix for another number of labels.
    """
    if not isinstance(weight, tuple):
        return np.float32(-weight) * np.eye(num_labels, dtype=np.float32)
    costs = np.asarray(weight, np.float32)
    if len(costs) != num_labels:
        raise DataError(
            f"dense CRF: a kernel weight has shape {costs.shape} for {num_labels} labels; give one cost a label"
        )
    return np.diag(costs) if costs.ndim == 1 else (costs + costs.T) / 2


def key_strides(spans: Sequence[float], num_images: int = 1) -> np.ndarray:
    """Multipliers that turn a vertex's d coordinates and its image's number into one int64, `Σ stride · coordinate`.

    The code is linear, so a neighbour's code is the vertex's code plus a constant. Where the coordinates' ranges
    fit 62 bits, the strides are a mixed radix and codes are unique. Otherwise (very narrow kernels on large images)
    they are fixed odd 64-bit constants and the sum wraps around: two of n vertices share a code with a chance of about
    n²/2⁶⁵, 1e-7 for a million vertices.

    Args:
        spans: range of each of the d features.
        num_images: how many images share a table of vertices.

    Returns:
        `(d+1,)` int64, the last one for the number of the image.
    """
    dimensions = len(spans)
    reach = [span * float(factor) for span, factor in zip(spans, lattice_scale(dimensions), strict=True)]
    margin = 4 * (dimensions + 1)  # a vertex lies within d + 1 of its pixel, and a neighbour d further
    ranges = [math.ceil(sum(reach)) + margin]
    ranges += [math.ceil(i * reach[i - 1] + sum(reach[i:])) + margin for i in range(1, dimensions)]
    if math.prod(ranges) * num_images < 2**62:
        strides = [math.prod(ranges[i + 1 :]) for i in range(dimensions)]
        return np.array([*strides, math.prod(ranges)], dtype=np.int64)
    golden = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio: its powers are odd numbers without structure
    return np.cumprod(np.full(dimensions + 1, golden, dtype=np.uint64)).view(np.int64)


def neighbour_steps(strides: np.ndarray) -> np.ndarray:
    """Difference of code between a vertex and its next along each of the d + 1 axes, `(d + 1,)` int64.

    Along axis j every coordinate falls by 1, and the j-th rises by d; the last coordinate is implied by the others.
    `strides` is what `key_strides` returns.
    """
    dimensions = len(strides) - 1
    steps = np.full(dimensions + 1, -strides[:dimensions].sum(), dtype=np.int64)
    steps[:dimensions] += strides[:dimensions] * (dimensions + 1)
    return steps
