"""The memory that the dense CRF keeps from call to call: bounded, and given back by `release`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from weakclip.crf import LOSS_CRF, VOC_CRF, dense_crf, release
from weakclip.crf.cpu import inference
from weakclip.crf.cpu import workspace as memory

Make = Callable[..., np.ndarray]


def test_release_gives_everything_back_of_all_threads(make_image: Make, make_probs: Make) -> None:
    release()
    assert memory.held_bytes() == 0
    images = np.stack([make_image(40, 50, seed) for seed in range(6)])
    probs = np.stack([make_probs(3, 40, 50, seed) for seed in range(6)])
    inference.infer_batch(images[:1], probs[:1], LOSS_CRF, threads=1)
    of_one_thread = memory.held_bytes()
    expected = inference.infer_batch(images, probs, LOSS_CRF, threads=3)
    helper = inference._pool(2).submit(inference.infer_batch, images[:1], probs[:1], LOSS_CRF, threads=1)
    helper.result()  # so that at least one helper has worked
    assert memory.held_bytes() > 1.5 * of_one_thread > 0
    release()
    assert memory.held_bytes() == 0
    np.testing.assert_array_equal(inference.infer_batch(images, probs, LOSS_CRF, threads=1), expected)


def test_a_release_in_the_middle_of_a_call_disturbs_nothing(
    make_image: Make, make_probs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, probs = make_image(40, 50), make_probs(3, 40, 50)
    expected = dense_crf(image, probs, VOC_CRF, backend="numba")
    take = memory.Workspace.take

    def release_and_take(self: memory.Workspace, *args: object, **kwargs: object) -> np.ndarray:
        release()
        return take(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(memory.Workspace, "take", release_and_take)
    np.testing.assert_array_equal(dense_crf(image, probs, VOC_CRF, backend="numba"), expected)


def test_what_is_kept_is_bounded(make_image: Make, make_probs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    release()
    dense_crf(make_image(90, 120), make_probs(3, 90, 120), VOC_CRF, backend="numba")
    assert memory.held_bytes() > 2**20 + 2**17
    monkeypatch.setattr(memory, "MOST_RESERVED", 2**20)
    monkeypatch.setattr(memory, "MOST_CACHED", 2**17)
    release()
    for size in ((90, 120), (4, 4), (91, 120)):
        dense_crf(make_image(*size), make_probs(3, *size), VOC_CRF, backend="numba")
        assert 0 < memory.held_bytes() <= 2**20 + 2**17


def test_the_cache_drops_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_CACHED", 1000)
    cache, made = memory.Cache(), []

    def get(name: str, size: int = 400) -> None:
        cache.get(name, lambda: (made.append(name), np.empty(size, np.uint8)))

    for name in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b
        get(name)
    assert made == ["a", "b", "c", "b"]
    get("large", 1001)
    assert cache.num_bytes() <= 1000


RSS = """
import numpy as np
from pathlib import Path
from weakclip.crf import VOC_CRF, dense_crf, release

def call(height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    probs = rng.random((3, height, width), np.float32) + 0.1
    dense_crf(image, probs / probs.sum(0), VOC_CRF)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

call(8, 8)
before = resident()
call(1200, 1600)
call(8, 8)
kept = resident() - before
release()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_process_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """1200×1600 pixels take some 800 MiB at work; the allocator may keep a little of what it is given back."""
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    ran = subprocess.run([sys.executable, "-c", RSS], capture_output=True, text=True, check=True)
    kept, after_release = map(int, ran.stdout.split())
    assert kept <= (memory.MOST_RESERVED + memory.MOST_CACHED) / 2**20 + 64
    assert after_release <= 128
