"""AffinityNet learns from labels of maps: pairs and loss by the plain formula, a training that lowers it, resume."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import weakclip.seeds.affinitynet.train as stage
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import WeightsError
from weakclip.seeds.affinitynet.model import pair_offsets
from weakclip.seeds.affinitynet.storage import load_affinitynet, save_affinitynet
from weakclip.seeds.affinitynet.train import (
    WEIGHTS_FILE,
    AffinitySettings,
    affinity_loss,
    batch_affinity_loss,
    grid_labels,
    pair_kinds,
    train_affinity,
)
from weakclip.segmenters.resnet38 import ResNet38
from weakclip.training.settings import TrainSettings

WIDTHS = (4, 4, 8, 8, 16, 16, 32)
AUGMENT = AugmentSettings(crop_size=48, scale=(1.0, 1.0), fit_crop=False, photometric=False, max_class_share=1.0)


def settings(steps: int = 6, pretrained: str | None = None, **train: Any) -> AffinitySettings:
    numbers = {"batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1}
    chosen = TrainSettings(steps=steps, **{**numbers, "ema_decay": 0.0, **train})
    return AffinitySettings(
        pretrained=pretrained, widths=WIDTHS, reductions=(4, 4, 8), radius=3, train=chosen, augment=AUGMENT
    )


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS_FILE).read_bytes()


def some_labels(*shape: int) -> Tensor:
    return torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 4, shape)]


def kind_of(labels: Tensor, b: int, y: int, x: int, step: tuple[int, int]) -> str | None:
    """The kind of one pair, in words."""
    down, right = y + step[0], x + step[1]
    if not (down < labels.shape[1] and 0 <= right < labels.shape[2]):
        return None
    own, other = int(labels[b, y, x]), int(labels[b, down, right])
    if 255 in (own, other):
        return None
    if own != other:
        return "different"
    return "foreground" if own else "background"


@pytest.mark.parametrize(("size", "radius"), [((5, 6), 3), ((1, 4), 2), ((6, 2), 5)])
def test_pairs_and_loss_are_the_plain_formula(size: tuple[int, int], radius: int) -> None:
    labels, offsets = some_labels(2, *size), pair_offsets(radius)
    affinity = torch.rand(2, len(offsets), *size) * 0.9 + 0.05
    kinds = dict(zip(("background", "foreground", "different"), pair_kinds(labels, radius), strict=True))
    terms: dict[str, list[float]] = {name: [] for name in kinds}
    for index in torch.cartesian_prod(*(torch.arange(length) for length in affinity.shape)).tolist():
        b, p, y, x = index
        kind = kind_of(labels, b, y, x, offsets[p])
        assert [name for name, mask in kinds.items() if mask[b, p, y, x]] == ([kind] if kind else [])
        if kind:
            value = affinity[b, p, y, x].item()
            terms[kind].append(-math.log(1 - value if kind == "different" else value))
    share = {"background": 4, "foreground": 4, "different": 2}
    means = {f"{name}_loss": sum(found) / max(1, len(found)) / share[name] for name, found in terms.items()}
    parts = affinity_loss(affinity, labels, radius)
    expected = {"loss": sum(means.values()), **means}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_permuting_the_foreground_classes_changes_nothing() -> None:
    labels, affinity = some_labels(2, 6, 6), torch.rand(2, len(pair_offsets(3)), 6, 6)
    other = torch.where(labels == 1, 2, torch.where(labels == 2, 80, labels.long())).to(torch.uint8)
    assert affinity_loss(affinity, labels, 3)["loss"] == affinity_loss(affinity, other, 3)["loss"]


def test_loss_is_lower_for_affinities_that_tell_the_classes_apart() -> None:
    labels = some_labels(1, 6, 6)
    background, foreground, _ = pair_kinds(labels, 3)
    right = (background | foreground).float()
    assert affinity_loss(right, labels, 3)["loss"] < 1e-4 < affinity_loss(1 - right, labels, 3)["loss"]
    assert affinity_loss(right, torch.full_like(labels, 255), 3)["loss"] == 0


def test_cells_take_the_label_of_more_than_half() -> None:
    mask = torch.full((2, 16, 24), 255, dtype=torch.uint8)
    mask[0, :8, :8] = 7
    mask[0, :8, 8:12] = 3  # exactly half: none
    mask[0, 8:, :5] = 80  # five of eight columns
    mask[1, :8, 16:] = 0
    assert grid_labels(mask).tolist() == [[[7, 255, 255], [80, 255, 255]], [[255, 255, 0], [255, 255, 255]]]


def test_every_parameter_gets_a_gradient(squares: Any) -> None:
    model = settings().build()
    images = torch.stack([torch.from_numpy(squares.image(index)).permute(2, 0, 1) for index in range(2)])
    masks = torch.stack([torch.from_numpy(squares.truth(index)) for index in range(2)])
    batch_affinity_loss(model, {"image": images, "mask": masks}, radius=3)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_training_lowers_the_loss_and_reads_no_pixel_label(squares: Any, seed_folder: Path, tmp_path: Path) -> None:
    """`squares.mask` fails when it is asked."""
    train_affinity(squares, seed_folder, tmp_path / "net", settings(steps=60, batch_size=6))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "net/log.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_stopped_training_ends_with_the_same_weights(
    squares: Any, seed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_affinity(squares, seed_folder, tmp_path / "whole", settings())
    calls, whole_loss = iter(range(1, 100)), stage.affinity_loss

    def interrupted(*values: Any) -> dict[str, Tensor]:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return whole_loss(*values)

    monkeypatch.setattr(stage, "affinity_loss", interrupted)
    with pytest.raises(SystemExit):
        train_affinity(squares, seed_folder, tmp_path / "parts", settings())
    assert not (tmp_path / "parts" / WEIGHTS_FILE).exists()
    assert train_affinity(squares, seed_folder, tmp_path / "parts", settings()).steps == 6
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_saved_network_is_the_same_network(tmp_path: Path) -> None:
    model, image = settings().build().eval(), torch.rand(1, 3, 40, 32)
    save_affinitynet(model, tmp_path / "net.safetensors")
    loaded = load_affinitynet(tmp_path / "net.safetensors")
    assert torch.equal(loaded(image), model(image)) and not loaded.training and loaded.radius == 3
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match=r"plain\.safetensors: not written by save_affinitynet"):
        load_affinitynet(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("name", ["trunk.pth", "trunk.safetensors"])
def test_training_starts_from_the_named_trunk_and_keeps_its_norms(
    squares: Any, seed_folder: Path, tmp_path: Path, name: str
) -> None:
    state = ResNet38(WIDTHS).state_dict()
    state = {key: 0.2 * torch.rand_like(value) if value.ndim else value for key, value in state.items()}
    counters = {key for key in state if key.endswith("num_batches_tracked")}  # which old checkpoints do not have
    stored = {key: value for key, value in state.items() if key not in counters} | {"fc8.weight": torch.rand(3)}
    save_file(stored, tmp_path / name) if name.endswith("safetensors") else torch.save(stored, tmp_path / name)
    chosen = settings(steps=2, pretrained=str(tmp_path / name))
    assert all(torch.equal(value, state[key]) for key, value in chosen.build().trunk.state_dict().items())
    train_affinity(squares, seed_folder, tmp_path / "net", chosen)
    trained = load_affinitynet(tmp_path / "net" / WEIGHTS_FILE).trunk.state_dict()
    kept = {key for key, value in trained.items() if torch.equal(value, state[key])}
    assert kept == {key for key in state if "bn" in key or key.startswith(("conv1a", "b2.", "b2_"))}


def test_what_is_wrong_with_a_trunk_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such file"):
        settings(pretrained=str(tmp_path / "none.pth")).build()
    torch.save({**ResNet38(WIDTHS).state_dict(), "conv1a.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"does not fit ResNet38: conv1a\.weight \(3,\), expected \(4, 3, 3, 3\)"):
        settings(pretrained=str(tmp_path / "odd.pth")).build()
