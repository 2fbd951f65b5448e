"""The optimiser of the settings: its groups, its rates, and exact resume whatever it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weakclip.errors import ConfigError
from weakclip.training.loop import fit
from weakclip.training.optimizer import FACTOR, build_optimizer
from weakclip.training.settings import RateFactor, TrainSettings

SGD = TrainSettings(
    steps=11,
    batch_size=3,
    optimizer="sgd",
    schedule="poly",
    learning_rate=0.01,
    warmup_steps=0,
    min_learning_rate=0.0,
    clip_grad_norm=None,
    ema_decay=0.0,
    checkpoint_every=4,
)


class Noise:
    """Vectors of noise, drawn from the item's own seed, labelled by their index."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, rng_seed = key
        values = torch.randn(4, generator=torch.Generator().manual_seed(rng_seed))
        return {"image": values + index, "label": index}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))[:, 0]


def toy_loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"loss": (model(batch["image"]).float() - batch["label"].float()).square().mean()}


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_factors_of_all_parts_in_a_name_are_multiplied() -> None:
    factors = (RateFactor(part="head", factor=10), RateFactor(part="bias", factor=2), RateFactor(part="1.", factor=0))
    model = Toy()
    optimizer = build_optimizer(named(model), dataclasses.replace(SGD, rate_factors=factors, weight_decay=0.1))
    names = {parameter: name for name, parameter in named(model).items()}
    found = {
        names[parameter]: (group[FACTOR], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "body.0.weight": (1, 0.01, 0.1),
        "body.0.bias": (2, 0.02, 0),
        "body.1.weight": (0, 0, 0),
        "body.1.bias": (0, 0, 0),
        "head.weight": (10, 0.1, 0.1),
        "head.bias": (20, 0.2, 0),
    }


def test_a_step_moves_parameters_by_their_factor(tmp_path: Path) -> None:
    """One step of SGD: rate times factor times gradient; a factor of 0 leaves a parameter as it was."""
    moved = []
    for number, factors in enumerate(((), (RateFactor(part="head", factor=10), RateFactor(part="body", factor=0)))):
        model, before = Toy(), Toy().state_dict()
        settings = dataclasses.replace(SGD, steps=1, rate_factors=factors, weight_decay=0.0)
        fit(model, Noise(), toy_loss, settings, tmp_path / str(number))
        moved.append({name: value - before[name] for name, value in model.state_dict().items()})
    torch.testing.assert_close(moved[1]["head.weight"], 10 * moved[0]["head.weight"])
    assert moved[0]["body.0.weight"].abs().sum() > 0
    assert not moved[1]["body.0.weight"].any()


def test_sgd_is_torch_s_own(tmp_path: Path) -> None:
    """Two steps with momentum against the formula: v = 0.9 v + g, w = w - rate v."""
    gradients: list[torch.Tensor] = []
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.detach().clone()

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        gradients.append(batch["label"].float().mean())
        assert isinstance(model.weight, torch.Tensor)
        return {"loss": (model.weight * gradients[-1]).sum()}

    settings = dataclasses.replace(SGD, steps=2, weight_decay=0.0)
    fit(model, Noise(), loss, settings, tmp_path)
    first, second = gradients
    expected = start - 0.01 * first - 0.01 * 0.5**0.9 * (0.9 * first + second)
    torch.testing.assert_close(model.weight.detach(), expected)


@pytest.mark.parametrize("settings", [SGD, dataclasses.replace(SGD, rate_factors=(RateFactor(part="head", factor=3),))])
def test_a_resumed_training_ends_with_the_same_weights(settings: TrainSettings, tmp_path: Path) -> None:
    calls = iter(range(100))

    def breaks(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return toy_loss(model, batch)

    undisturbed, resumed = Toy(), Toy()
    fit(undisturbed, Noise(), toy_loss, settings, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), Noise(), breaks, settings, tmp_path / "two")
    fit(resumed, Noise(), toy_loss, settings, tmp_path / "two")
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_factor_that_fits_no_name_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = dataclasses.replace(SGD, rate_factors=(RateFactor(part="haed", factor=10),))
    build_optimizer(named(Toy()), settings)
    assert "rate_factors: no parameter of this network has 'haed' in its name" in caplog.text


@pytest.mark.parametrize(("part", "factor"), [("", 1.0), ("head", -1.0)])
def test_a_factor_out_of_range_is_refused(part: str, factor: float) -> None:
    with pytest.raises(ConfigError, match=r"rate_factors: a part of a name, and a factor of 0 or more, expected"):
        RateFactor(part=part, factor=factor)
