from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weakclip.modeling.train as stage
from weakclip.clip import FrozenCLIP
from weakclip.crf import LOSS_CRF, dense_crf
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.modeling import WeakCLIP, build_weakclip, load_weakclip
from weakclip.modeling.losses import boundary_loss, grid_probabilities
from weakclip.modeling.train import LossSettings, WeakCLIPLoss, train_weakclip
from weakclip.training.dataset import TrainingPairs
from weakclip.training.settings import TrainSettings

SETTINGS = TrainSettings(
    steps=6, batch_size=2, learning_rate=3e-3, warmup_steps=2, ema_decay=0.5, checkpoint_every=2, log_every=1
)
LOSS = LossSettings(size=8)
AUGMENT = AugmentSettings(crop_size=32, scale=(0.8, 1.2))


def _model(clip: FrozenCLIP, pairs: TrainingPairs) -> WeakCLIP:
    torch.manual_seed(0)
    return build_weakclip(
        clip,
        pairs.dataset.class_set,
        prompt_length=2,
        co_attention_width=8,
        co_attention_heads=2,
        co_attention_layers=2,
        decoder_channels=16,
    )


@pytest.fixture
def pairs(squares: Any, seed_folder: Path) -> TrainingPairs:
    return TrainingPairs(squares, seed_folder, AUGMENT)


def _batch(pairs: TrainingPairs) -> dict[str, Tensor]:
    items = [pairs[index, index] for index in range(4)]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "mask")}


def test_every_trainable_parameter_gets_a_gradient_and_clip_gets_none(tiny_clip: FrozenCLIP, pairs: TrainingPairs):
    model = _model(tiny_clip, pairs).train()
    WeakCLIPLoss(LOSS)(model, _batch(pairs))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("clip."), name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_the_loss_is_the_sum_of_its_parts(tiny_clip: FrozenCLIP, pairs: TrainingPairs):
    parts = WeakCLIPLoss(LOSS)(_model(tiny_clip, pairs), _batch(pairs))
    total = parts.pop("loss")
    assert set(parts) == {"seeding_loss", "boundary_loss", "matching_loss"}
    torch.testing.assert_close(total, sum(parts.values()))
    halved = WeakCLIPLoss(LossSettings(size=8, matching_weight=0.2))
    torch.manual_seed(0)
    first = WeakCLIPLoss(LOSS)(_model(tiny_clip, pairs), _batch(pairs))["matching_loss"]
    second = halved(_model(tiny_clip, pairs), _batch(pairs))["matching_loss"]
    assert second.item() == pytest.approx(first.item() / 2, rel=0.2)  # dropout differs between the two calls


def test_balance_by_class_is_a_setting(tiny_clip: FrozenCLIP, pairs: TrainingPairs):
    model, batch = _model(tiny_clip, pairs).eval(), _batch(pairs)
    batch["mask"][:, :3] = 1
    batch["mask"][:, 3:, :16] = 2
    probs = grid_probabilities(model(batch["image"]).logits, (LOSS.size, LOSS.size))
    for class_balance in (False, True):
        found = WeakCLIPLoss(replace(LOSS, crf=None, class_balance=class_balance))(model, batch)["seeding_loss"]
        torch.testing.assert_close(found, stage.seeding_loss(probs, batch["mask"], class_balance=class_balance))
    assert found != stage.seeding_loss(probs, batch["mask"])


def test_the_crf_beside_the_other_losses_is_that_of_one_after_the_other(tiny_clip: FrozenCLIP, pairs: TrainingPairs):
    model, batch, size = _model(tiny_clip, pairs).eval(), _batch(pairs), (LOSS.size, LOSS.size)
    found = WeakCLIPLoss(LOSS)(model, batch)["boundary_loss"]
    probs = grid_probabilities(model(batch["image"]).logits, size)
    images = torch.nn.functional.interpolate(batch["image"].float(), size=size, mode="bilinear", align_corners=False)
    target = dense_crf(images.round().to(torch.uint8), probs.detach(), LOSS_CRF)
    torch.testing.assert_close(found, boundary_loss(probs, target), rtol=0, atol=0)


def test_trains_without_pixel_labels_and_leaves_clip_bit_identical(
    tiny_clip: FrozenCLIP, pairs: TrainingPairs, tmp_path: Path
):
    before = {name: tensor.clone() for name, tensor in tiny_clip.state_dict().items()}
    model = _model(tiny_clip, pairs)
    fresh = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    settings = TrainSettings(steps=40, batch_size=4, learning_rate=3e-3, warmup_steps=5, log_every=5)
    result = train_weakclip(model, pairs, tmp_path / "out", settings, loss=LOSS)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_clip.state_dict().items())
    assert not any(torch.equal(fresh[name], tensor) for name, tensor in model.trainable_state().items())
    assert result.trained_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    loaded = load_weakclip(tmp_path / "out", clip=tiny_clip)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(image).logits, model(image).logits)


def test_a_stopped_training_ends_with_the_same_weights(
    tiny_clip: FrozenCLIP, pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, resumed = _model(tiny_clip, pairs), _model(tiny_clip, pairs)
    train_weakclip(whole, pairs, tmp_path / "whole", SETTINGS, loss=LOSS)
    calls = iter(range(1, 100))
    seeding = stage.seeding_loss

    def interrupted(probs: Tensor, seeds: Tensor, *, class_balance: bool) -> Tensor:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return seeding(probs, seeds, class_balance=class_balance)

    monkeypatch.setattr(stage, "seeding_loss", interrupted)
    with pytest.raises(SystemExit):
        train_weakclip(_model(tiny_clip, pairs), pairs, tmp_path / "parts", SETTINGS, loss=LOSS)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    train_weakclip(resumed, pairs, tmp_path / "parts", SETTINGS, loss=LOSS)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "parts" / "model.safetensors"
    ).read_bytes()


def test_prediction_that_is_not_finite_costs_a_step_and_no_more(
    tiny_clip: FrozenCLIP, pairs: TrainingPairs, tmp_path: Path
):
    """The dense CRF refuses NaN; in training it is a step that is skipped."""
    model, calls = _model(tiny_clip, pairs), iter(range(100))

    def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output * torch.nan if next(calls) == 2 else output

    model.decoder.register_forward_hook(spoil)
    result = train_weakclip(model, pairs, tmp_path, SETTINGS, loss=LOSS)
    assert (result.steps, result.skipped_steps) == (6, 1)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_checkpoint_does_not_depend_on_the_data_workers_bit_for_bit(
    tiny_clip: FrozenCLIP, pairs: TrainingPairs, tmp_path: Path
):
    """The whole file: weights, averages, optimiser, sums of the losses."""
    files = []
    for workers in (0, 1, 4):
        settings, folder = replace(SETTINGS, workers=workers), tmp_path / str(workers)
        train_weakclip(_model(tiny_clip, pairs), pairs, folder, settings, loss=LOSS, seed=5)
        files.append([(folder / name).read_bytes() for name in ("checkpoint.safetensors", "model.safetensors")])
    assert files[0] == files[1] == files[2]


def test_the_loss_among_the_labels_asks_nothing_of_absent_classes(tiny_clip: FrozenCLIP, pairs: TrainingPairs):
    model = _model(tiny_clip, pairs).eval()
    batch = _batch(pairs) | {"shown": torch.stack([pairs[index, index]["shown"] for index in range(4)])}
    asked = []
    hook = model.decoder.register_forward_hook(lambda module, given, logits: asked.append(logits.requires_grad_()))
    settings = replace(LOSS, crf=None, matching_weight=0.0, label_share=1.0)
    only_labels = WeakCLIPLoss(settings)(model, batch)["loss"]
    (gradient,) = torch.autograd.grad(only_labels, asked[-1])
    assert not gradient[~batch["shown"]].any()
    assert gradient[batch["shown"]].any()
    everything = WeakCLIPLoss(replace(settings, label_share=0.0))(model, batch)["loss"]
    half = WeakCLIPLoss(replace(settings, label_share=0.5))(model, batch)["loss"]
    hook.remove()
    torch.testing.assert_close(half, (only_labels + everything) / 2)
    assert only_labels < everything  # fewer classes to confuse


def test_a_label_share_beyond_1_is_refused():
    with pytest.raises(ConfigError, match="label_share"):
        LossSettings(label_share=1.1)
