"""`precision`: the switches of float32 products on GPUs are set while a network is at work, and set back afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weakclip.errors import RunError
from weakclip.inference import windows
from weakclip.inference.windows import InferenceSettings, predict_probs
from weakclip.training import loop
from weakclip.training.loop import fit
from weakclip.training.precision import float32_as
from weakclip.training.settings import TrainSettings

SETTINGS = TrainSettings(steps=2, batch_size=2, warmup_steps=0, max_bad_steps=1)
GPU = torch.device("cuda")
EXPECTED = {"fp32": (False, False), "tf32": (True, True), "bf16": (False, True), "auto": (False, True)}


def switches() -> tuple[bool, bool]:
    """Whether products of matrices and convolutions may round."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    """torch's own default around every test, which leaves it as it was."""
    before = switches()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield
    assert switches() == (False, True)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done on the CPU; the switches are told that it is a GPU."""
    for place in (windows, loop):
        monkeypatch.setattr(place, "float32_as", lambda precision, _: float32_as(precision, GPU))


class Numbers:
    """Four samples of noise."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": torch.rand(3, generator=torch.Generator().manual_seed(key[1])), "name": str(key[0])}


class Watched(torch.autograd.Function):
    """The identity, which notes the switches on the way back."""

    seen: ClassVar[list[tuple[bool, bool]]] = []

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        Watched.seen.append(switches())
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Watched.seen.append(switches())
        return gradient


@pytest.mark.parametrize("precision", EXPECTED)
def test_training_sets_the_switches_forward_and_backward(precision: str, tmp_path: Path) -> None:
    Watched.seen = []
    settings = dataclasses.replace(SETTINGS, precision=precision)
    fit(
        nn.Linear(3, 1),
        Numbers(),
        lambda model, batch: {"loss": Watched.apply(model(batch["image"])).mean()},
        settings,
        tmp_path,
    )
    assert Watched.seen == [EXPECTED[precision]] * 4  # two steps, each forward and backward


def test_a_training_that_ends_in_an_error_sets_them_back(tmp_path: Path) -> None:
    """The fixture looks at them."""
    settings = dataclasses.replace(SETTINGS, precision="tf32")
    with pytest.raises(RunError, match="not finite"):
        fit(
            nn.Linear(3, 1),
            Numbers(),
            lambda model, batch: {"loss": model(batch["image"]).mean() * torch.nan},
            settings,
            tmp_path,
        )


@pytest.mark.parametrize("precision", EXPECTED)
def test_inference_sets_them_around_the_network(precision: Any) -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(switches())
        return images[:, :2].float()

    settings = InferenceSettings(scales=(1.0, 0.5), flip=False, crop=8, stride=8, fit_crop=False, precision=precision)
    predict_probs(network, np.zeros((8, 8, 3), np.uint8), settings, device="cpu")
    assert seen == [EXPECTED[precision]] * 2


def test_what_was_set_before_is_set_again() -> None:
    with float32_as("tf32", GPU):
        with float32_as("fp32", GPU):
            assert switches() == (False, False)
        with float32_as("bf16", GPU):
            assert switches() == (True, True)
        assert switches() == (True, True)


@pytest.mark.parametrize("precision", EXPECTED)
def test_nothing_is_set_on_a_cpu(precision: str) -> None:
    before = switches()
    with float32_as(precision, torch.device("cpu")):
        assert switches() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with TF32")
def test_products_on_a_gpu_round_where_they_may() -> None:
    factors = torch.rand(2, 256, 256, dtype=torch.float64)
    exact, device = factors[0] @ factors[1], torch.device(torch.accelerator.current_accelerator() or "cpu")

    def error(precision: str) -> float:
        with float32_as(precision, device):
            product = factors[0].float().to(device) @ factors[1].float().to(device)
        return float((product.double().cpu() - exact).abs().max())

    assert error("fp32") < 1e-3
    if torch.cuda.get_device_capability()[0] >= 8:
        assert error("tf32") > 3 * error("fp32")
