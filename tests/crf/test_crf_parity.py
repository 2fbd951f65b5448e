"""Parity with pydensecrf's stored marginals, and with exact ones: every case of the fixtures' `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from weakclip.crf import CRFParams, Kernel, dense_crf

HALF_PRECISION = 2.0**-12  # half of the spacing of float16 just below one


@pytest.fixture(scope="module")
def folder(shared_fixtures: Path) -> Path:
    path = shared_fixtures / "dense_crf"
    if not (path / "config.json").is_file():
        pytest.skip(f"no dense CRF fixtures at {path}; name their folder with WEAKCLIP_FIXTURES")
    return path


def test_parity_with_pydensecrf_in_every_case(folder: Path) -> None:
    tensors = load_file(folder / "expected.safetensors")
    cases = json.loads((folder / "config.json").read_text())
    assert cases
    for case in cases:
        name = case["case"]
        kernels = (Kernel(**case["gaussian"]), Kernel(**case["bilateral"]))
        params = CRFParams(kernels=kernels, iterations=case["iterations"])
        expected = tensors[f"{name}.pydensecrf"]
        marginals = dense_crf(tensors[f"{name}.image"], tensors[f"{name}.probabilities"], params)
        full_size = expected[0].size > 64 * 64
        assert (marginals.argmax(0) == expected.argmax(0)).mean() >= (0.9999 if full_size else 0.999), name
        limit = 1e-5 if expected.dtype == np.float32 else HALF_PRECISION
        assert np.abs(marginals - expected.astype(np.float32)).mean() <= limit, name
        if f"{name}.exact" in tensors:
            exact = tensors[f"{name}.exact"]
            theirs = np.abs(expected - exact).mean()
            assert np.abs(marginals - exact).mean() <= theirs * (1 + 1e-4) + 1e-8, name


def test_parity_of_the_oracle_with_the_stored_exact_marginals(folder: Path, oracle: object) -> None:
    tensors = load_file(folder / "expected.safetensors")
    for case in json.loads((folder / "config.json").read_text()):
        name = case["case"]
        if f"{name}.exact" not in tensors or case["size"][0] * case["size"][1] > 48 * 48:
            continue
        kernels = (Kernel(**case["gaussian"]), Kernel(**case["bilateral"]))
        params = CRFParams(kernels=kernels, iterations=case["iterations"])
        exact = oracle.exact_dense_crf(tensors[f"{name}.image"], tensors[f"{name}.probabilities"], params)  # type: ignore[attr-defined]
        np.testing.assert_allclose(exact, tensors[f"{name}.exact"], atol=1e-5)
