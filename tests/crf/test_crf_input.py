"""What `dense_crf` refuses, in one line; what importing it does not cost; and life without numba."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from weakclip.crf import LOSS_CRF, CRFParams, FeatureKernel, Kernel, dense_crf
from weakclip.errors import ConfigError, DataError

IMAGE = np.full((6, 7, 3), 90, np.uint8)
PROBS = np.full((2, 6, 7), 0.5, np.float32)


def _with(value: float) -> np.ndarray:
    probs = PROBS.copy()
    probs[0, 2, 3] = value
    return probs


@pytest.mark.parametrize(
    ("image", "probs", "message"),
    [
        (IMAGE, _with(np.nan), "NaN"),
        (IMAGE, _with(np.inf), "infinity"),
        (IMAGE, _with(-0.1), "lowest probability is -0.1.*energies=True"),
        (IMAGE, _with(0.8), "sum to 1 … 1.3"),
        (IMAGE, PROBS.astype(np.int64), "int64"),
        (IMAGE, PROBS[:0], "at least one label"),
        (IMAGE, PROBS[:, :5], r"\(2, 5, 7\) do not fit"),
        (IMAGE, PROBS[None], "or a batch of both"),
        (IMAGE[..., :0], PROBS, "do not fit"),
        (None, PROBS, "the image is None"),
        (IMAGE[None], PROBS.repeat(3, 0).reshape(3, 2, 6, 7), "do not fit"),
        (IMAGE[..., 0], PROBS, "expected \\(H, W, C\\)"),
        (IMAGE.transpose(2, 0, 1), PROBS, "read as \\(H, W, C\\)"),
        (IMAGE.astype(np.int32), PROBS, "int32"),
        (IMAGE.astype(np.float32), PROBS, "spans 90 … 90, expected 0 … 1"),
        (np.full((6, 7, 3), np.nan), PROBS, "expected 0 … 1"),
        (IMAGE, torch.from_numpy(PROBS), "two numpy arrays or two torch tensors"),
        (IMAGE.tolist(), PROBS, "is a list"),
        (torch.full((3, 6, 7), 90, dtype=torch.uint8), torch.from_numpy(_with(np.nan)), "NaN"),
        (torch.full((3, 6, 7), 90, dtype=torch.uint8), torch.ones(2, 6, 7, dtype=torch.long), "int64"),
        (torch.full((3, 6, 7), 90, dtype=torch.int32), torch.from_numpy(PROBS), "int32"),
        (torch.full((3, 6, 7), 90.0), torch.from_numpy(PROBS), "expected 0 … 1"),
        (torch.from_numpy(IMAGE), torch.from_numpy(PROBS), r"read as \(C, H, W\)"),
        (torch.zeros(3, 6, 7, device="meta"), torch.from_numpy(PROBS), "is on meta"),
    ],
)
def test_bad_input_is_one_line(image: Any, probs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        dense_crf(image, probs, LOSS_CRF)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "numbers",
    [
        {"sxy": 0, "weight": 1},
        {"sxy": -3, "weight": 1},
        {"sxy": float("nan"), "weight": 1},
        {"sxy": 3, "weight": -1},
        {"sxy": 3, "weight": float("inf")},
        {"sxy": 3, "weight": 1, "srgb": 0},
        {"sxy": 3, "weight": 1, "srgb": -5},
        {"sxy": "3", "weight": 1},
        {"sxy": (3, 4, 5), "weight": 1},
        {"sxy": (), "weight": 1},
        {"sxy": 3, "weight": 1, "srgb": (5, 0, 5)},
        {"sxy": 3, "weight": ()},
        {"sxy": 3, "weight": (1, float("nan"))},
        {"sxy": 3, "weight": ((1, 2), (1, 2, 3))},
        {"sxy": 3, "weight": ((1, 2), 3)},
    ],
)
def test_bad_kernels_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected"):
        Kernel(**numbers)


def test_bad_params_are_refused() -> None:
    for kernels, iterations in (([Kernel(sxy=3, weight=1)], 10), ((3,), 10), ((), -1), ((), 2.5)):
        with pytest.raises(DataError, match="expected"):
            CRFParams(kernels=kernels, iterations=iterations)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="expected CRFParams"):
        dense_crf(IMAGE, PROBS, {"iterations": 3})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="too narrow"):
        dense_crf(IMAGE, PROBS, CRFParams(kernels=(Kernel(sxy=1e-6, weight=1),)))
    with pytest.raises(ConfigError, match="unknown backend 'gpu'"):
        dense_crf(IMAGE, PROBS, LOSS_CRF, backend="gpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (Kernel(sxy=3, weight=(1, 2, 3)), "has shape \\(3,\\) for 2 labels"),
        (Kernel(sxy=3, srgb=(1, 2), weight=1), "2 colour channels, the image has 3"),
        (FeatureKernel(features=np.zeros((2, 6, 8)), weight=1), "shape \\(2, 6, 8\\) for 1 image"),
        (FeatureKernel(features=np.zeros((2, 2, 6, 7)), weight=1), "for 1 image"),
        (FeatureKernel(features=np.full((2, 6, 7), np.nan), weight=1), "reach nan"),
        (FeatureKernel(features=np.full((2, 6, 7), 1e7), weight=1), "divide them"),
        (FeatureKernel(features=[[1.0]], weight=1), "shape \\(\\)"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(kernel: Any, message: str) -> None:
    for backend in ("numba", "torch"):
        with pytest.raises(DataError, match=message):
            dense_crf(IMAGE, PROBS, CRFParams(kernels=(kernel,)), backend=backend)  # type: ignore[arg-type]


def test_bad_energies_and_large_exact_images_are_refused() -> None:
    with pytest.raises(DataError, match="energies hold NaN"):
        dense_crf(IMAGE, _with(np.nan), LOSS_CRF, energies=True)
    image, probs = np.zeros((200, 200, 3), np.uint8), np.full((2, 200, 200), 0.5, np.float32)
    with pytest.raises(DataError, match="up to 20000 pixels, found 200×200"):
        dense_crf(image, probs, LOSS_CRF, exact=True)


def test_without_numba_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dense_crf(IMAGE, PROBS, LOSS_CRF)
    # The import fails as it does where numba is absent.
    monkeypatch.setitem(sys.modules, "weakclip.crf.cpu.inference", None)
    monkeypatch.delattr("weakclip.crf.cpu.inference")
    np.testing.assert_allclose(dense_crf(IMAGE, PROBS, LOSS_CRF), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="numba cannot be imported"):
        dense_crf(IMAGE, PROBS, LOSS_CRF, backend="numba")


def test_importing_the_package_imports_neither_numba_nor_torch() -> None:
    names = "('numba', 'llvmlite', 'torch')"
    code = f"import sys, weakclip, weakclip.crf.files; print([m for m in {names} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [1e39, 10**400, 1e-50, float("nan")])
def test_sizes_beyond_float32_are_refused(size: float) -> None:
    with pytest.raises(DataError, match="kernel width sxy"):
        Kernel(sxy=(3, size), weight=3)
    if size > 1:
        with pytest.raises(DataError, match="kernel weight"):
            Kernel(sxy=3, weight=size)


def test_whole_numbers_of_numpy_count_iterations() -> None:
    assert CRFParams(kernels=(), iterations=np.int64(5)).iterations == 5


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_features_may_be_arrays_and_tensors_of_any_kind(backend: str) -> None:
    rng = np.random.default_rng(0)
    features, probs = rng.random((2, 6, 7), np.float32), np.full((3, 6, 7), 1 / 3, np.float32)
    probs[0] += rng.random((6, 7), np.float32) * 0.3
    probs /= probs.sum(0)

    def marginals(given: object) -> np.ndarray:
        params = CRFParams(kernels=(FeatureKernel(features=given, weight=3),), iterations=2)
        return dense_crf(None, probs, params, backend=backend)

    expected = marginals(features)
    for given in (
        features[:, ::-1].copy()[:, ::-1],
        features.astype(">f4"),
        torch.from_numpy(features).requires_grad_(),
    ):
        np.testing.assert_array_equal(marginals(given), expected)
    marginals(torch.from_numpy(features).bfloat16())
    for wrong in (features.astype(np.complex64), features.astype(object)):
        with pytest.raises(DataError, match="kernel features are"):
            marginals(wrong)
