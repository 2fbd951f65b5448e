"""Images, probabilities and the slow oracle for the tests of the dense CRF."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ORACLE = Path(__file__).parents[1] / "reference" / "dense_crf.py"


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """`tests/reference/dense_crf.py`."""
    spec = importlib.util.spec_from_file_location("reference_dense_crf", ORACLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _smooth(noise: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian blur of the last two axes, periodic, brought to unit deviation."""
    rows, columns = (np.fft.fftfreq(size) for size in noise.shape[-2:])
    gain = np.exp(-2 * (np.pi * deviation) ** 2 * (rows[:, None] ** 2 + columns**2))
    blurred = np.fft.ifft2(np.fft.fft2(noise) * gain).real
    return blurred / (blurred.std() or 1.0)


@pytest.fixture
def make_image() -> Callable[..., np.ndarray]:
    """`make_image(height, width, seed)`: `(H, W, 3)` uint8 with soft regions and a little noise."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        regions = 128 + 60 * _smooth(rng.normal(size=(3, height, width)), 3.0)
        return (regions + rng.normal(0, 5, regions.shape)).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()

    return make


@pytest.fixture
def make_probs() -> Callable[..., np.ndarray]:
    """`make_probs(labels, height, width, seed)`: `(K, H, W)` float32, smooth in space."""

    def make(labels: int, height: int, width: int, seed: int = 1) -> np.ndarray:
        rng = np.random.default_rng(seed)
        exponentials = np.exp(1.5 * _smooth(rng.normal(size=(labels, height, width)), 2.0))
        return (exponentials / exponentials.sum(axis=0)).astype(np.float32)

    return make
