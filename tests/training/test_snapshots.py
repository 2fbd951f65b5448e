"""Weights that are kept by step: the averages of that step, whole, the same after a kill, and put back by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weakclip.errors import ConfigError, WeightsError
from weakclip.store.untrusted_weights import load_safetensors
from weakclip.training.checkpoint import load_checkpoint
from weakclip.training.loop import CHECKPOINT_NAME, fit
from weakclip.training.settings import TrainSettings
from weakclip.training.snapshots import SNAPSHOTS, restore_snapshot

SETTINGS = TrainSettings(steps=9, batch_size=3, learning_rate=0.02, warmup_steps=2, checkpoint_every=4, keep_every=4)


class Noise:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": torch.randn(4, generator=torch.Generator().manual_seed(key[1])), "label": key[0]}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.frozen(images))[:, 0]


def loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"loss": (model(batch["image"]).float() - batch["label"].float()).square().mean()}


def stopping(step: int) -> Any:
    calls = iter(range(1, 100))

    def stops(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if next(calls) == step:
            raise KeyboardInterrupt
        return loss(model, batch)

    return stops


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / SNAPSHOTS).iterdir())


@pytest.mark.parametrize(("decay", "group"), [(0.9, "average"), (0.0, "model")])
def test_a_snapshot_is_the_average_of_its_step(decay: float, group: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, ema_decay=decay)
    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), Noise(), stopping(6), settings, tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT_NAME)
    found, _ = load_safetensors(tmp_path / SNAPSHOTS / "4.safetensors")
    assert checkpoint.step == 4 and found.keys() == checkpoint.tensors[group].keys()
    assert all(torch.equal(value, checkpoint.tensors[group][name]) for name, value in found.items())
    assert not any(name.startswith("frozen") for name in found)


@pytest.mark.parametrize("step", [2, 5, 8, 9])
def test_a_stopped_training_keeps_the_same(step: int, tmp_path: Path) -> None:
    fit(Toy(), Noise(), loss, SETTINGS, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), Noise(), stopping(step), SETTINGS, tmp_path / "two")
    fit(Toy(), Noise(), loss, SETTINGS, tmp_path / "two")
    assert kept(tmp_path / "one") == kept(tmp_path / "two") == ["4.safetensors", "8.safetensors"]
    for name in kept(tmp_path / "one"):
        files = [(tmp_path / run / SNAPSHOTS / name).read_bytes() for run in ("one", "two")]
        assert files[0] == files[1]


def test_keeping_changes_nothing_else(tmp_path: Path) -> None:
    with_files, without = Toy(), Toy()
    fit(with_files, Noise(), loss, SETTINGS, tmp_path / "one")
    fit(without, Noise(), loss, dataclasses.replace(SETTINGS, keep_every=None), tmp_path / "two")
    assert not (tmp_path / "two" / SNAPSHOTS).exists()
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in with_files.state_dict().items())


def test_weights_are_put_back_by_name(tmp_path: Path) -> None:
    trained, fresh = Toy(), Toy()
    fit(trained, Noise(), loss, dataclasses.replace(SETTINGS, steps=8), tmp_path)
    restore_snapshot(fresh, tmp_path, 8)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_what_cannot_be_put_back_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights of step 8; none are kept; train with a keep_every"):
        restore_snapshot(Toy(), tmp_path, 8)
    fit(Toy(), Noise(), loss, SETTINGS, tmp_path)
    with pytest.raises(WeightsError, match="no weights of step 7; kept are 4, 8; train"):
        restore_snapshot(Toy(), tmp_path, 7)
    with pytest.raises(WeightsError, match=r"8\.safetensors: checkpoint of another model"):
        restore_snapshot(nn.Linear(2, 2), tmp_path, 8)
    (tmp_path / SNAPSHOTS / "4.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"4\.safetensors: not a safetensors file that can be read"):
        restore_snapshot(Toy(), tmp_path, 4)
    with pytest.raises(ConfigError, match="keep_every: 1 or more, or null, expected; found 0"):
        TrainSettings(keep_every=0)
