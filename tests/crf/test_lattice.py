"""The permutohedral lattice against brute force, and the integers that stand for its vertices."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from weakclip.crf import Kernel, cpu, cpu_filter, features, simd, torch_backend
from weakclip.crf.cpu_lattice import build_lattice

GAUSSIAN = Kernel(sxy=3, weight=1)
BILATERAL = Kernel(sxy=10, srgb=30, weight=1)


def _features(image: np.ndarray, kernel: Kernel) -> np.ndarray:
    positions = cpu._positions(*image.shape[:2], kernel.sxy)
    if kernel.srgb is None:
        return positions
    return np.concatenate([positions, image.reshape(-1, 3).astype(np.float32) / np.float32(kernel.srgb)], axis=1)


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL, Kernel(sxy=80, srgb=13, weight=1)])
def test_filter_of_ones_follows_brute_force(
    kernel: Kernel, make_image: Callable[..., np.ndarray], oracle: ModuleType
) -> None:
    """Up to a constant factor, which the symmetric normalisation takes out."""
    image = make_image(24, 31)
    _, scale = cpu._with_norm(_features(image, kernel), features.feature_spans(kernel, 24, 31))
    exact = oracle.kernel_matrix(image, kernel).sum(axis=1)
    ratio = scale**-2 / exact
    assert np.corrcoef(scale**-2, exact)[0, 1] > 0.98
    assert ratio.std() / ratio.mean() < 0.15


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL])
def test_pixels_lie_inside_their_simplex(kernel: Kernel, make_image: Callable[..., np.ndarray]) -> None:
    lattice = build_lattice(_features(make_image(24, 31), kernel), features.feature_spans(kernel, 24, 31))
    assert lattice.weights.min() > -1e-5
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, atol=1e-5)
    assert set(np.unique(lattice.vertices)) == set(range(lattice.num_vertices))
    assert all(len(set(simplex)) == len(simplex) for simplex in lattice.vertices)


def test_chains_hold_each_vertex_once_an_axis(make_image: Callable[..., np.ndarray]) -> None:
    lattice = build_lattice(_features(make_image(24, 31), BILATERAL), features.feature_spans(BILATERAL, 24, 31))
    assert (np.diff(lattice.chain_starts) >= 2).all()
    assert lattice.chain_starts[-1] == len(lattice.chain_vertices)
    assert np.bincount(lattice.chain_vertices).max() <= 6


def test_the_wide_codes_find_the_same_lattice(make_image: Callable[..., np.ndarray]) -> None:
    values = _features(make_image(24, 31), BILATERAL)
    narrow = build_lattice(values, features.feature_spans(BILATERAL, 24, 31))
    wide = build_lattice(values, [1e5] * 5)
    assert features.key_strides([1e5] * 5)[0] < 0  # such ranges fit no 62 bits
    np.testing.assert_array_equal(wide.vertices, narrow.vertices)
    np.testing.assert_array_equal(wide.chain_vertices, narrow.chain_vertices)


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL, Kernel(sxy=0.01, srgb=0.5, weight=1)])
def test_torch_lattice_filters_as_the_compiled_one(kernel: Kernel, make_image: Callable[..., np.ndarray]) -> None:
    image = make_image(24, 31)
    _, scale = cpu._with_norm(_features(image, kernel), features.feature_spans(kernel, 24, 31))
    lattice = torch_backend._normalised_lattice(torch.from_numpy(image)[None].float(), kernel)
    signal = torch.rand(24 * 31, 1, generator=torch.Generator().manual_seed(0))
    compiled = build_lattice(_features(image, kernel), features.feature_spans(kernel, 24, 31))
    values = np.zeros((compiled.num_vertices, simd.LANES), np.float32)
    weights = compiled.weights * scale[:, None]
    cpu_filter.splat(values, compiled.vertices, weights, signal.numpy().repeat(simd.LANES, axis=1))
    cpu_filter.blur(values, 0, compiled.chain_vertices, compiled.chain_starts)
    expected = cpu_filter.slice_first_label(values, 0, compiled.vertices, weights)
    np.testing.assert_allclose(lattice.filter(signal)[:, 0].numpy(), expected, rtol=1e-4)


def test_the_vector_exponential() -> None:
    @simd.jit
    def exp_rows(values: np.ndarray) -> None:
        for row in range(len(values)):
            simd.store(values, row, 0, simd.exp(simd.load(values, row, 0)))

    x = np.linspace(-86.99, 0, 100 * simd.LANES, dtype=np.float32).reshape(-1, simd.LANES)
    y = x.copy()
    exp_rows(y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=5e-7)
    below = np.full((1, simd.LANES), -np.inf, np.float32)
    below[0, 0] = -88
    exp_rows(below)
    assert (below == 0).all()


def test_code_without_a_place_for_its_cache_still_compiles() -> None:
    scope: dict[str, object] = {}
    exec("def double(x):\n    return 2 * x\n", scope)  # of no file: numba cannot cache it
    assert simd.jit(scope["double"])(21) == 42
