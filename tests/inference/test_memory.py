"""Where memory runs out, inference goes on with smaller batches, and the result is the same."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weakclip
from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.inference.evaluation import score_network
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import BatchLimit, InferenceSettings, OutOfMemoryRetry, is_out_of_memory, predict_probs

WINDOWS = InferenceSettings(scales=(1.0, 1.5), crop=32, stride=16, fit_crop=False, batch_size=8)


class Small(nn.Module):
    """Convolutions, and no memory for more than so many images at once."""

    def __init__(self, room: int, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("no room")) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 13, 3, stride=2, padding=1))
        self.room, self.error, self.sizes = room, error, list[int]()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error()
        logits: Tensor = self.body(images.float() / 255)
        return logits


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("room", [7, 4, 3, 2, 1])
def test_smaller_batches_give_the_same_probabilities(
    room: int, image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    whole = predict_probs(Small(8), image, WINDOWS, device="cpu")
    network = Small(room)
    with caplog.at_level(logging.WARNING, "weakclip"):
        parts = predict_probs(network, image, WINDOWS, device="cpu")
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    fits = max(size for size in (4, 2, 1) if size <= room)
    assert [record.getMessage() for record in caplog.records] == [
        f"inference: no memory for 8 images at once; goes on with {fits}"
    ]
    assert sum(size > room for size in network.sizes) == [8, 4, 2, 1].index(fits)


def allocator(words: str) -> Callable[[], Exception]:
    return lambda: RuntimeError(words)


@pytest.mark.parametrize(
    "error",
    [
        allocator("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        allocator("CUDA out of memory. Tried to allocate 20.00 MiB."),
        allocator("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError,
    ],
)
def test_every_word_for_it_is_understood(error: Callable[[], Exception], image: np.ndarray) -> None:
    network = Small(2, error)
    predict_probs(network, image, WINDOWS, device="cpu")
    assert max(network.sizes[2:]) == 2


def test_other_errors_and_the_want_of_room_for_one_pass_as_they_are(image: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        predict_probs(Small(2, allocator("shape mismatch")), image, WINDOWS, device="cpu")
    network = Small(0)
    with pytest.raises(torch.OutOfMemoryError):
        predict_probs(network, image, WINDOWS, device="cpu")
    assert network.sizes == [8, 4, 2, 1]


def test_what_was_learnt_is_kept_from_image_to_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pseudo masks, and the evaluation, which predicts in the same way."""
    dataset, network = ScenesDataset("val", count=4, size=64), Small(3)
    settings = PseudoMaskSettings(inference=WINDOWS, crf=None)
    write_pseudo_masks(Small(8), dataset, tmp_path / "whole", settings)
    with caplog.at_level(logging.WARNING, "weakclip"):
        write_pseudo_masks(network, dataset, tmp_path / "parts", settings)
        assert len(caplog.records) == 1
        score_network(Small(3), dataset, tmp_path / "scored", settings)
        assert len(caplog.records) == 2
    assert sum(size > 3 for size in network.sizes) == 2
    for name in dataset.names:
        whole, parts = (read_mask(tmp_path / each / f"masks/{name}.png") for each in ("whole", "parts"))
        assert np.array_equal(whole, parts)


def test_a_wrapped_network_is_not_wrapped_again(image: np.ndarray) -> None:
    network = OutOfMemoryRetry(Small(2))
    predict_probs(network, image, WINDOWS, device="cpu")
    assert network.limit.largest == 2


def test_what_fits_is_not_copied() -> None:
    made: list[Tensor] = []

    def network(images: Tensor) -> Tensor:
        made.append(images + 1)
        return made[-1]

    assert OutOfMemoryRetry(network)(torch.zeros(2, 3, 4, 4)) is made[0]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_parts_of_a_batch_are_all_of_it_in_order(count: int) -> None:
    def network(images: Tensor) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return images + 1

    limit, images = BatchLimit(), torch.arange(count).reshape(count, 1, 1, 1)
    assert torch.equal(torch.cat(limit.run(network, images)), images + 1)
    assert limit.largest == (None if count <= 2 else 2)


_LITTLE_MEMORY = """
import logging, resource, sys
import numpy as np, torch
from weakclip.inference.windows import InferenceSettings, predict_probs
torch.set_num_threads(1)
logging.basicConfig(format="%(message)s")
def network(images):
    held.append(len(images))
    room = torch.empty(len(images), 2**26, dtype=torch.uint8)  # 64 MiB an image; reserved, never touched
    return images.float()[:, :, ::2, ::2] / (50 + 0 * room[0, 0])
held = []
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
settings = InferenceSettings(scales=(1.0,), flip=False, crop=16, stride=16, fit_crop=False, batch_size=16)
whole = predict_probs(network, image, settings, device="cpu")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20  # room for 4 images and some more, not for 8
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
held.clear()
parts = predict_probs(network, image, settings, device="cpu")
assert np.array_equal(whole, parts)
assert held == [16, 8, 4, 4, 4, 4], held
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is limited on Linux alone")
def test_a_machine_that_has_no_more_memory() -> None:
    """The allocator of torch really fails: the address space of the process is limited."""
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LITTLE_MEMORY], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no memory for 16 images at once; goes on with 4" in done.stderr


def test_what_is_no_want_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("x"))
