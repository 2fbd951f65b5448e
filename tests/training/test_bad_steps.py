"""Steps that are not finite change nothing, are named, and end the training when there is no end of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weakclip
from weakclip.errors import ConfigError, RunError
from weakclip.training.checkpoint import load_checkpoint
from weakclip.training.loop import CHECKPOINT_NAME, fit
from weakclip.training.settings import TrainSettings

SETTINGS = TrainSettings(
    steps=14, batch_size=2, learning_rate=0.02, warmup_steps=3, ema_decay=0.9, checkpoint_every=4, log_every=3
)


class Poisoned:
    """Seven images of noise; those of `bad` are NaN throughout."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, rng_seed = key
        image = np.random.default_rng(rng_seed).normal(index, 1, (2, 4, 4)).astype(np.float32)
        image += np.nan if index in self.bad else 0
        return {"image": torch.from_numpy(image), "label": index, "name": f"n{index}"}


class Net(nn.Module):
    """Convolution, batch norm (whose statistics a bad image would spoil), dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))[:, 0]


def squared(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"loss": (model(batch["image"]) - batch["label"].float()).square().mean()}


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in found]


def skipped(folder: Path) -> dict[int, list[str]]:
    return {line["step"]: line["images"] for line in lines(folder) if "skipped" in line}


def equal(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.fixture
def poisoned(tmp_path: Path) -> tuple[Net, Path]:
    """A training on data of which one image is bad, that nobody disturbed."""
    model, folder = Net(), tmp_path / "undisturbed"
    result = fit(model, Poisoned(3), squared, SETTINGS, folder)
    assert result.steps == 14
    assert result.skipped_steps == len(skipped(folder)) == 4
    return model, folder


def test_skipped_steps_are_named_and_leave_no_trace(poisoned: tuple[Net, Path]) -> None:
    model, folder = poisoned
    assert all("n3" in images and len(images) == 2 for images in skipped(folder).values())
    checkpoint = load_checkpoint(folder / CHECKPOINT_NAME)
    for tensors in (model.state_dict(), *checkpoint.tensors.values()):
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    updates = {int(value) for name, value in checkpoint.tensors["optimizer"].items() if name.startswith("step/")}
    assert updates == {10}
    assert all("loss" in line and np.isfinite(line["loss"]) for line in lines(folder) if "skipped" not in line)


def test_skipped_step_is_as_if_its_batch_had_said_nothing(poisoned: tuple[Net, Path], tmp_path: Path) -> None:
    """The same training on good data, in which the steps that were skipped neither look nor learn."""
    out = skipped(poisoned[1])
    steps = iter(range(1, 100))

    def silent(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if next(steps) in out:
            return {"loss": sum(parameter.sum() for parameter in model.parameters()) * torch.nan}
        return squared(model, batch)

    model = Net()
    fit(model, Poisoned(), silent, SETTINGS, tmp_path / "silent")
    assert equal(model, poisoned[0])


@pytest.mark.parametrize("stop", [2, 5, 8, 9, 14])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_skips_the_same_steps(
    stop: int, workers: int, poisoned: tuple[Net, Path], tmp_path: Path
) -> None:
    calls = iter(range(1, 100))

    def crashing(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if next(calls) == stop:
            raise ZeroDivisionError
        return squared(model, batch)

    settings, folder = dataclasses.replace(SETTINGS, workers=workers), tmp_path / "stopped"
    with pytest.raises(ZeroDivisionError):
        fit(Net(), Poisoned(3), crashing, settings, folder)
    model = Net()
    assert fit(model, Poisoned(3), squared, settings, folder).skipped_steps == 4
    assert equal(model, poisoned[0])
    assert lines(folder) == lines(poisoned[1])
    assert (folder / CHECKPOINT_NAME).read_bytes() == (poisoned[1] / CHECKPOINT_NAME).read_bytes()


def test_gradient_that_is_not_finite_counts_too(tmp_path: Path) -> None:
    """The root of 0: the loss is finite, its gradient is not."""

    def rooted(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        rooted = (model(batch["image"]) * 0).square().sum().sqrt() if 3 in batch["label"] else 0
        return {"loss": squared(model, batch)["loss"] + rooted}

    model = Net()
    assert fit(model, Poisoned(), rooted, SETTINGS, tmp_path).skipped_steps == 4
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_too_many_in_a_row_end_the_training_and_spare_the_checkpoint(tmp_path: Path) -> None:
    late = dataclasses.replace(SETTINGS, max_bad_steps=3)
    steps = iter(range(100))

    def spoiled(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": squared(model, batch)["loss"] * (np.inf if next(steps) >= 6 else 1.0)}

    with pytest.raises(RunError, match=r"step 9: not finite \(loss inf, .*last 3 steps; now the images n\d, n\d; look"):
        fit(Net(), Poisoned(), spoiled, late, tmp_path)
    found = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert found.step == 8
    assert found.tensors["bad_steps"] == {"total": torch.tensor(2), "in_a_row": torch.tensor(2)}
    assert all(tensor.isfinite().all() for tensor in found.tensors["model"].values())
    steps = iter(range(8, 100))  # the same again: the count goes on where it was
    with pytest.raises(RunError, match="step 9: not finite"):
        fit(Net(), Poisoned(), spoiled, late, tmp_path)
    more = dataclasses.replace(late, max_bad_steps=100)  # no other training, only more patience
    assert fit(Net(), Poisoned(), squared, more, tmp_path).skipped_steps == 2


def test_no_patience_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="max_bad_steps: 1 or more"):
        TrainSettings(max_bad_steps=0)


_TWO_PROCESSES = """
import sys
sys.path.insert(0, sys.argv[1])
from test_bad_steps import *
torch.set_num_threads(1)
model = Net()
model.body[1] = model.body[3] = nn.Identity()  # batch statistics and dropout masks are per process
settings = dataclasses.replace(SETTINGS, precision="fp32")  # in bf16 the halves of a batch round otherwise
fit(model, Poisoned(3), squared, settings, sys.argv[2])
torch.save(model.state_dict(), f"{sys.argv[2]}/weights{os.environ.get('RANK', '0')}.pt")
"""


@pytest.mark.slow
def test_two_processes_skip_as_one(tmp_path: Path) -> None:
    """The bad image is in the share of one of them; both skip, and the log names the images of both."""
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    (tmp_path / "script.py").write_text(_TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, command in {"two": launch, "one": [sys.executable]}.items():
        (tmp_path / name).mkdir()
        arguments = [*command, str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path / name)]
        subprocess.run(arguments, env=environment, check=True, timeout=200)
    assert skipped(tmp_path / "two") == skipped(tmp_path / "one")
    one = torch.load(tmp_path / "one" / "weights0.pt", weights_only=True)
    for rank in range(2):
        two = torch.load(tmp_path / "two" / f"weights{rank}.pt", weights_only=True)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
