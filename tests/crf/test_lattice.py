"""The permutohedral lattice against brute force, and the integers that stand for its vertices."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from llvmlite import binding

from weakclip.crf import Kernel, features, torch_backend
from weakclip.crf.cpu import field as cpu_field
from weakclip.crf.cpu import filter as cpu_filter
from weakclip.crf.cpu import simd, vector_math
from weakclip.crf.cpu.jit import jit
from weakclip.crf.cpu.lattice import BLOCK, build_lattice
from weakclip.crf.cpu.structures import Lattice, PixelTerms, Target

GAUSSIAN = Kernel(sxy=3, weight=1)
BILATERAL = Kernel(sxy=10, srgb=30, weight=1)
SIZE = (24, 31)


def _built(image: np.ndarray, kernel: Kernel, spans: tuple[float, ...] | None = None) -> tuple[Lattice, PixelTerms]:
    """The lattice before its normalisation, pixels row by row."""
    positions = np.mgrid[: SIZE[0], : SIZE[1]][::-1].reshape(2, -1).astype(np.float32) / np.float32(kernel.sxy)
    if kernel.srgb is not None:
        colours = image.reshape(-1, 3).T.astype(np.float32) / np.float32(kernel.srgb)
        positions = np.concatenate([positions, colours])
    spans = features.feature_spans(kernel, *SIZE, 3) if spans is None else spans
    number, size = positions.shape[1], len(positions) + 1
    offsets, weights = np.empty(number * size, np.uint32), np.empty(number * size, np.float32)
    padded = np.pad(positions, ((0, 0), (0, -number % BLOCK)))
    lattice = build_lattice(padded, spans, Target(offsets, weights, size, 0, 0, 1, np.float32(1.0)))
    shares = weights.reshape(number, size)
    shares /= shares.sum(axis=1, keepdims=True)  # barycentric coordinates
    return lattice, PixelTerms(offsets, weights, simd.size_of(size))


def _filtered(lattice: Lattice, terms: PixelTerms, signal: np.ndarray) -> np.ndarray:
    """Splat, blur and slice `signal`, `(N,)`."""
    one = simd.size_of(1)
    shape, arrays = (one, one, one), tuple(terms)
    values, result = np.zeros(lattice.num_vertices, np.float32), np.empty_like(signal)
    cpu_filter.splat_rows(values, arrays, 0, len(signal), signal, 0, shape)
    cpu_filter.blur(values, tuple(lattice), one, 1)
    cpu_filter.slice_rows(values, arrays, 0, len(signal), result, 0, shape)
    return result


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL, Kernel(sxy=80, srgb=13, weight=1)])
def test_filter_of_ones_follows_brute_force(
    kernel: Kernel, make_image: Callable[..., np.ndarray], oracle: ModuleType
) -> None:
    """Up to a constant factor, which the symmetric normalisation takes out."""
    image = make_image(*SIZE)
    norm = _filtered(*_built(image, kernel), np.ones(SIZE[0] * SIZE[1], np.float32))
    exact = oracle.kernel_matrix(image, kernel).sum(axis=1)
    ratio = norm / exact
    assert np.corrcoef(norm, exact)[0, 1] > 0.98
    assert ratio.std() / ratio.mean() < 0.15


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL])
def test_pixels_lie_inside_their_simplex(kernel: Kernel, make_image: Callable[..., np.ndarray]) -> None:
    lattice, terms = _built(make_image(*SIZE), kernel)
    size = len(terms.size)
    assert terms.weights.min() > -1e-5
    np.testing.assert_allclose(terms.weights.reshape(-1, size).sum(axis=1), 1, atol=1e-5)
    assert set(np.unique(terms.offsets)) == set(range(lattice.num_vertices))
    assert all(len(set(simplex)) == len(simplex) for simplex in terms.offsets.reshape(-1, size))


def test_chains_hold_each_vertex_once_an_axis(make_image: Callable[..., np.ndarray]) -> None:
    lattice, _ = _built(make_image(*SIZE), BILATERAL)
    assert lattice.chain_groups[:, 0].min() >= 2
    assert lattice.chain_groups.prod(axis=1).sum() == len(lattice.chain_vertices)
    assert np.bincount(lattice.chain_vertices).max() <= 6


@pytest.mark.parametrize("width", [4, 8, 24, 40])
def test_the_blur_of_a_row_is_that_of_each_label(width: int, make_image: Callable[..., np.ndarray]) -> None:
    lattice, _ = _built(make_image(*SIZE), BILATERAL)
    table = np.random.default_rng(0).random((lattice.num_vertices, width), np.float32)
    values, labels = table.flatten(), table.T.copy()
    cpu_filter.blur(values, tuple(lattice), simd.size_of(min(width, 8)), width)
    for label in labels:
        cpu_filter.blur(label, tuple(lattice), simd.size_of(1), 1)
    np.testing.assert_array_equal(values.reshape(-1, width), labels.T)


@pytest.mark.parametrize("sxy", [1.0, 1.15, 1.3])
def test_a_grid_is_blurred_as_its_chains(sxy: float, make_image: Callable[..., np.ndarray]) -> None:
    grid, grid_terms = cpu_field._spatial_lattice(*SIZE, (sxy, sxy))
    chained, terms = _built(make_image(*SIZE), Kernel(sxy=sxy, weight=1))
    assert len(grid.columns)
    place = np.empty(chained.num_vertices, np.int64)  # in the grid, of each vertex
    place[terms.offsets.reshape(-1, 3)[cpu_field.tile_order(*SIZE)].ravel()] = grid_terms.offsets
    table = np.random.default_rng(0).random((chained.num_vertices, 8), np.float32)
    on_grid = np.zeros((grid.num_vertices, 8), np.float32)
    on_grid[place] = table
    for lattice, values in ((chained, table), (grid, on_grid)):
        cpu_filter.blur(values.reshape(-1), tuple(lattice), simd.size_of(8), 8)
    np.testing.assert_array_equal(on_grid[place], table)
    assert not np.delete(on_grid, place, axis=0).any()


@pytest.mark.parametrize("sxy", [0.05, 3.0])
def test_gaps_or_few_vertices_keep_the_chains(sxy: float) -> None:
    lattice, _ = cpu_field._spatial_lattice(*SIZE, (sxy, sxy))
    assert len(lattice.columns) == 0
    assert len(lattice.chain_vertices) > 0


def test_the_wide_codes_find_the_same_lattice(make_image: Callable[..., np.ndarray]) -> None:
    narrow, narrow_terms = _built(make_image(*SIZE), BILATERAL)
    wide, wide_terms = _built(make_image(*SIZE), BILATERAL, spans=(1e5,) * 5)
    assert features.key_strides([1e5] * 5)[0] < 0  # such ranges fit no 62 bits
    np.testing.assert_array_equal(wide_terms.offsets, narrow_terms.offsets)
    np.testing.assert_array_equal(wide.chain_vertices, narrow.chain_vertices)


def test_a_table_that_grows_keeps_its_vertices() -> None:
    """Every pixel in a simplex of its own: more vertices than the first table holds."""
    kernel = Kernel(sxy=0.05, weight=1)
    image = np.zeros((*SIZE, 3), np.uint8)
    lattice, terms = _built(image, kernel)
    assert lattice.num_vertices == len(np.unique(terms.offsets)) == terms.offsets.size


@pytest.mark.parametrize("kernel", [GAUSSIAN, BILATERAL, Kernel(sxy=0.01, srgb=0.5, weight=1)])
def test_torch_lattice_filters_as_the_compiled_one(kernel: Kernel, make_image: Callable[..., np.ndarray]) -> None:
    image = make_image(*SIZE)
    lattice = torch_backend._normalised_lattice(torch.from_numpy(image)[None].float(), kernel)
    signal = np.random.default_rng(0).random(SIZE[0] * SIZE[1], np.float32)
    field = cpu_field.pixel_field(image.astype(np.float32), (kernel,), 1)
    order = cpu_field.tile_order(*SIZE)
    expected = np.empty_like(signal)
    expected[order] = _filtered(field.lattices[0], field.terms, signal[order])
    found = lattice.filter(torch.from_numpy(signal)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("lanes", [1, 4, 8, 24])
def test_the_vector_exponential(lanes: int) -> None:
    @jit
    def exp_rows(values: np.ndarray, lanes: tuple[int, ...]) -> None:
        for start in range(0, len(values), simd.constant(lanes)):
            simd.store(values, start, vector_math.exp(simd.load(values, start, lanes)))

    x = np.linspace(-86.99, 88, 960, dtype=np.float32)
    y = x.copy()
    exp_rows(y, simd.size_of(lanes))
    fused = binding.get_host_cpu_features().get("fma", True)  # where it has no name it is always there
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=6e-7 if fused else 5e-6)
    beyond = np.repeat(np.array([89, 200, np.inf], np.float32), 24)
    exp_rows(beyond, simd.size_of(lanes))
    np.testing.assert_array_equal(beyond, np.full(72, np.inf, np.float32))


def test_code_without_a_place_for_its_cache_still_compiles() -> None:
    scope: dict[str, object] = {}
    exec("def double(x):\n    return 2 * x\n", scope)  # of no file: numba cannot cache it
    assert jit(scope["double"])(21) == 42


_MARGINALS = """
import sys
import numpy as np
from weakclip.crf import LOSS_CRF, dense_crf
rng = np.random.default_rng(0)
image = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
for labels in (3, 6, 21):
    probs = rng.random((labels, 24, 31), np.float32) + 0.1
    sys.stdout.write(dense_crf(image, probs / probs.sum(0), LOSS_CRF).astype(np.float32).tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86-64")
@pytest.mark.parametrize(("processor", "features"), [("x86-64", "+sse2"), ("haswell", "+avx2,+fma")])
def test_older_processors_get_the_same_marginals(processor: str, features: str, tmp_path: Path) -> None:
    """The same source, compiled for a processor without AVX-512, and for one without AVX."""

    def marginals(name: str, **environment: str) -> np.ndarray:
        environment = {**os.environ, **environment, "NUMBA_CACHE_DIR": str(tmp_path / name)}
        ran = subprocess.run([sys.executable, "-c", _MARGINALS], env=environment, capture_output=True, check=True)
        return np.frombuffer(bytes.fromhex(ran.stdout.decode()), np.float32)

    older = marginals("older", NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features)
    np.testing.assert_allclose(older, marginals("this"), atol=1e-4)
