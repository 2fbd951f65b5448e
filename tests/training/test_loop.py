from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weakclip
from weakclip.errors import ConfigError, DataError, RunError, WeightsError
from weakclip.training import checkpoint as checkpoints
from weakclip.training.checkpoint import load_checkpoint
from weakclip.training.loop import CHECKPOINT_NAME, fit
from weakclip.training.settings import TrainSettings, learning_rate_at

SETTINGS = TrainSettings(
    steps=11, batch_size=3, learning_rate=0.02, warmup_steps=3, ema_decay=0.9, checkpoint_every=4, log_every=3
)


class Noise:
    """Images of noise made from the item's own seed, labelled by their index."""

    def __init__(self, length: int = 5) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, rng_seed = key
        image = np.random.default_rng(rng_seed).normal(index, 1, (2, 4, 4)).astype(np.float32)
        return {"image": torch.from_numpy(image), "label": index, "name": f"n{index}"}


class FailsAtIndex(Noise):
    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        if key[0] == 3:
            raise DataError("n3.jpg: broken")
        return super().__getitem__(key)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False).eval()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 1)

    def train(self, mode: bool = True) -> Toy:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.frozen(images)).mean((2, 3)))[:, 0]


def toy_loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    error = model(batch["image"]).float() - batch["label"].float()
    return {"loss": error.square().mean(), "absolute": error.abs().mean()}


def stop_at(step: int, act: Callable[[], None]) -> Callable[[nn.Module, dict[str, Any]], dict[str, Tensor]]:
    """`toy_loss`, acting once at a step counted from 1."""
    calls = iter(range(1, 1000))

    def loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if next(calls) == step:
            act()
        return toy_loss(model, batch)

    return loss


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def _log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    model, folder = Toy(), tmp_path_factory.mktemp("undisturbed")
    fit(model, Noise(), toy_loss, SETTINGS, folder)
    return _weights(model), _log(folder)


def test_learns_and_leaves_frozen_modules_alone(tmp_path: Path):
    model = Toy()
    before = _weights(model)
    settings = dataclasses.replace(SETTINGS, steps=150, log_every=10)
    result = fit(model, Noise(), toy_loss, settings, tmp_path)
    losses = [line["loss"] for line in _log(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]
    after = _weights(model)
    assert all(torch.equal(before[name], after[name]) == name.startswith("frozen") for name in before)
    assert not model.training
    assert result.steps == 150
    assert result.total_parameters - result.trained_parameters == sum(p.numel() for p in model.frozen.parameters())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_the_result_does_not_depend_on_the_number_of_workers(workers: int, tmp_path: Path, undisturbed: Any):
    model = Toy()
    fit(model, Noise(), toy_loss, dataclasses.replace(SETTINGS, workers=workers), tmp_path)
    assert _equal(_weights(model), undisturbed[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 4, 6, 11])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_ends_the_same(
    number: signal.Signals, step: int, workers: int, tmp_path: Path, undisturbed: Any
):
    settings = dataclasses.replace(SETTINGS, workers=workers)
    interrupted = stop_at(step, lambda: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
        fit(Toy(), Noise(), interrupted, settings, tmp_path)
    assert number == signal.SIGINT or stopped.value.code == 143
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).step == step
    model = Toy()
    torch.manual_seed(99)
    fit(model, Noise(), toy_loss, settings, tmp_path)
    assert _equal(_weights(model), undisturbed[0])
    assert _log(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_last_save_is_not_forgotten(
    number: signal.Signals, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
):
    save = checkpoints.save_checkpoint

    def interrupted(path: Path, checkpoint: checkpoints.Checkpoint) -> None:
        if checkpoint.step == SETTINGS.steps:
            signal.raise_signal(number)
        save(path, checkpoint)

    monkeypatch.setattr(checkpoints, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        fit(Toy(), Noise(), toy_loss, SETTINGS, tmp_path)
    model = Toy()
    fit(model, Noise(), toy_loss, SETTINGS, tmp_path)
    assert _equal(_weights(model), undisturbed[0])


def test_a_crash_loses_only_the_steps_since_the_last_checkpoint(tmp_path: Path, undisturbed: Any):
    def crash() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Toy(), Noise(), stop_at(11, crash), SETTINGS, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).step == 8
    model = Toy()
    fit(model, Noise(), toy_loss, SETTINGS, tmp_path)
    assert _equal(_weights(model), undisturbed[0])
    assert _log(tmp_path) == undisturbed[1]


def test_a_finished_run_is_taken_up_without_a_step(tmp_path: Path, undisturbed: Any):
    fit(Toy(), Noise(), toy_loss, SETTINGS, tmp_path)
    model = Toy()
    result = fit(model, Noise(), toy_loss, SETTINGS, tmp_path)
    assert result.images_per_second == 0
    assert _equal(_weights(model), undisturbed[0])


def test_the_seed_decides(tmp_path: Path, undisturbed: Any):
    model = Toy()
    fit(model, Noise(), toy_loss, SETTINGS, tmp_path, seed=1)
    assert not _equal(_weights(model), undisturbed[0])


def test_without_averaging_the_last_weights_are_the_result(tmp_path: Path):
    model = Toy()
    fit(model, Noise(), toy_loss, dataclasses.replace(SETTINGS, ema_decay=0.0), tmp_path)
    found = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert not found.tensors["average"]
    assert torch.equal(found.tensors["model"]["head.weight"], model.head.weight)


def test_averaged_weights_are_the_result(tmp_path: Path, undisturbed: Any):
    fit(Toy(), Noise(), toy_loss, SETTINGS, tmp_path)
    found = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert torch.equal(found.tensors["average"]["head.weight"], undisturbed[0]["head.weight"])
    assert not torch.equal(found.tensors["model"]["head.weight"], undisturbed[0]["head.weight"])
    assert not any("frozen" in name for group in found.tensors.values() for name in group)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_data_arrives_as_it_is_and_costs_nothing(workers: int, tmp_path: Path):
    with pytest.raises(DataError, match=r"^n3\.jpg: broken$"):
        fit(Toy(), FailsAtIndex(), toy_loss, dataclasses.replace(SETTINGS, workers=workers), tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).step < 2


def test_other_settings_or_another_model_do_not_meet_an_old_checkpoint(tmp_path: Path):
    fit(Toy(), Noise(), toy_loss, SETTINGS, tmp_path)
    with pytest.raises(RunError, match=r"learning_rate 0\.02, now 0\.5"):
        fit(Toy(), Noise(), toy_loss, dataclasses.replace(SETTINGS, learning_rate=0.5), tmp_path)
    with pytest.raises(RunError, match="images 5, now 4"):
        fit(Toy(), Noise(4), toy_loss, SETTINGS, tmp_path)
    other = Toy()
    other.head = nn.Linear(8, 2)
    with pytest.raises(WeightsError, match="another model"):
        fit(other, Noise(), toy_loss, SETTINGS, tmp_path)


def test_bf16_on_a_cpu_trains(tmp_path: Path):
    settings = dataclasses.replace(SETTINGS, precision="bf16", steps=60, log_every=10)
    fit(Toy(), Noise(), toy_loss, settings, tmp_path)
    losses = [line["loss"] for line in _log(tmp_path)]
    assert losses[-1] < losses[0]


def test_empty_data_and_a_model_without_parameters_are_errors(tmp_path: Path):
    with pytest.raises(DataError, match="empty"):
        fit(Toy(), Noise(0), toy_loss, SETTINGS, tmp_path)
    with pytest.raises(ConfigError, match="no parameter"):
        fit(Toy().requires_grad_(False), Noise(), toy_loss, SETTINGS, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": 0}, {"ema_decay": 1.0}, {"precision": "fp8"}, {"workers": -1}, {"clip_grad_norm": 0.0}),
        *({"optimizer": "adam"}, {"schedule": "step"}, {"momentum": 1.0}),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(change))):
        TrainSettings(**change)


def test_learning_rate_rises_then_falls_to_the_floor():
    settings = TrainSettings(steps=100, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1)
    rates = [learning_rate_at(step, settings) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 1.0
    assert rates[100] == pytest.approx(0.1)


def test_poly_falls_by_its_power():
    settings = TrainSettings(steps=110, warmup_steps=10, learning_rate=2.0, min_learning_rate=0.0, schedule="poly")
    assert learning_rate_at(10, settings) == 2.0
    assert learning_rate_at(60, settings) == pytest.approx(2 * 0.5**0.9)
    assert learning_rate_at(110, settings) == 0.0


_TWO_PROCESSES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_loop import *
torch.set_num_threads(1)
model = Toy()
model.body[1] = nn.Identity()  # batch statistics are per process on CPUs
model.body[3] = nn.Identity()  # dropout masks are per process
settings = dataclasses.replace(SETTINGS, batch_size=4, precision="fp32")
fit(model, Noise(), toy_loss, settings, sys.argv[2])
torch.save(model.state_dict(), f"{sys.argv[2]}/weights{os.environ.get('RANK', '0')}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    script = tmp_path / "script.py"
    script.write_text(_TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, command in {"two": launch, "one": [sys.executable]}.items():
        (tmp_path / name).mkdir()
        arguments = [*command, str(script), str(Path(__file__).parent), str(tmp_path / name)]
        subprocess.run(arguments, env=environment, check=True, timeout=200)
    one = torch.load(tmp_path / "one" / "weights0.pt", weights_only=True)
    for rank in range(2):
        two = torch.load(tmp_path / "two" / f"weights{rank}.pt", weights_only=True)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
