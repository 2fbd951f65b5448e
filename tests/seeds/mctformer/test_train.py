"""MCTformer+ learns from labels alone: each part of its loss by the plain formula, and a training that lowers it."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weakclip.seeds.mctformer.train as stage
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import WeightsError
from weakclip.seeds.mctformer.augmentation import DeiTAugmentSettings
from weakclip.seeds.mctformer.model import MCTformer, MCTformerModelSettings
from weakclip.seeds.mctformer.storage import load_mctformer
from weakclip.seeds.mctformer.train import (
    WEIGHTS_FILE,
    LabelledImages,
    MCTformerSettings,
    class_token_contrast,
    mctformer_loss,
    train_mctformer,
)
from weakclip.training.settings import TrainSettings

MODEL = MCTformerModelSettings(patch_size=8, width=16, depth=2, heads=2)
AUGMENT = DeiTAugmentSettings(crop_size=32, area=(0.5, 1.0), operations=0, erase=0.0)


def settings(steps: int = 6, **train: Any) -> MCTformerSettings:
    numbers = {"batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1}
    return MCTformerSettings(model=MODEL, augment=AUGMENT, train=TrainSettings(steps=steps, **(numbers | train)))


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS_FILE).read_bytes()


def soft_margin(logits: Tensor, target: Tensor) -> float:
    """Mean over images and classes of `-y log σ(x) - (1-y) log(1-σ(x))`, in Python's own numbers."""
    terms = []
    for x, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        share = 1 / (1 + math.exp(-x))
        terms.append(-y * math.log(share) - (1 - y) * math.log(1 - share))
    return sum(terms) / len(terms)


def contrast(class_tokens: Tensor, target: Tensor) -> float:
    """The formula of the docstring, loop by loop."""
    layers, images, classes, _ = class_tokens.shape
    total = 0.0
    for b in range(images):
        present = [k for k in range(classes) if target[b, k] > 0]
        for k in present:
            for layer in range(layers):
                tokens = class_tokens[layer, b]
                cosines = [(tokens[k] @ tokens[j] / tokens[k].norm() / tokens[j].norm()).item() for j in range(classes)]
                own = math.exp(cosines[k]) / sum(math.exp(cosine) for cosine in cosines)
                total -= math.log(own) / layers / len(present) / images
    return total


@pytest.mark.parametrize("classes", [1, 4, 20])
def test_contrast_is_the_plain_formula(classes: int) -> None:
    tokens, target = torch.randn(3, 4, classes, 6), torch.rand(4, classes).round()
    target[0] = 0  # an image without labels
    assert class_token_contrast(tokens, target).item() == pytest.approx(contrast(tokens, target), rel=1e-5, abs=1e-7)


def test_contrast_is_lower_for_tokens_that_differ() -> None:
    target, tokens = torch.ones(2, 3), torch.randn(2, 2, 3, 8)
    alike = tokens[:, :, :1].expand_as(tokens)
    assert class_token_contrast(alike, target).item() == pytest.approx(math.log(3), rel=1e-5)
    assert class_token_contrast(tokens, target) < class_token_contrast(alike, target)
    torch.testing.assert_close(class_token_contrast(5 * tokens, target), class_token_contrast(tokens, target))


def test_loss_is_the_sum_of_its_parts_by_the_plain_formulas() -> None:
    model = MCTformer(4, image_size=32, patch_size=8, width=16, depth=2, heads=2).eval()
    batch = {"image": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), "target": torch.rand(3, 3).round()}
    parts, output = mctformer_loss(model, batch, contrast_weight=0.3), model(batch["image"])
    expected = {
        "class_loss": soft_margin(output.class_logits, batch["target"]),
        "patch_loss": soft_margin(output.patch_logits, batch["target"]),
        "contrast_loss": 0.3 * contrast(output.class_tokens, batch["target"]),
    }
    expected["loss"] = sum(expected.values())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    model = MCTformer(4, image_size=32, patch_size=8, width=16, depth=2, heads=2)
    batch = {"image": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), "target": torch.eye(3)}
    mctformer_loss(model, batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_items_are_images_with_their_labels(squares: Any) -> None:
    items = LabelledImages(squares, AUGMENT)
    assert [items[index, 7]["target"].tolist() for index in (0, 1)] == [[1, 0], [0, 1]]
    first, again, other = items[0, 7]["image"], items[0, 7]["image"], items[0, 8]["image"]
    assert first.shape == (3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_training_tells_the_squares_apart_and_reads_no_pixel_label(squares: Any, tmp_path: Path) -> None:
    """`squares.mask` fails when it is asked."""
    train_mctformer(squares, tmp_path, settings(steps=60, batch_size=6, ema_decay=0.5))
    model = load_mctformer(tmp_path / WEIGHTS_FILE)
    images = torch.stack([torch.from_numpy(squares.image(index)).permute(2, 0, 1) for index in range(6)])
    assert model(images).class_logits.argmax(dim=1).tolist() == [0, 1, 0, 1, 0, 1]


def test_some_steps_on_scenes_lower_the_loss(tmp_path: Path) -> None:
    scenes = ScenesDataset("train", size=64, count=8)
    train_mctformer(scenes, tmp_path, settings(steps=30, batch_size=8, log_every=5))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.85 * losses[0]


def test_stopped_training_ends_with_the_same_weights(
    squares: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_mctformer(squares, tmp_path / "whole", settings())
    calls = iter(range(1, 100))
    whole_contrast = stage.class_token_contrast

    def interrupted(class_tokens: Tensor, target: Tensor) -> Tensor:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return whole_contrast(class_tokens, target)

    monkeypatch.setattr(stage, "class_token_contrast", interrupted)
    with pytest.raises(SystemExit):
        train_mctformer(squares, tmp_path / "parts", settings())
    assert not (tmp_path / "parts" / WEIGHTS_FILE).exists()
    result = train_mctformer(squares, tmp_path / "parts", settings())
    assert result.steps == 6
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    train_mctformer(squares, tmp_path / "parts", settings())  # a finished training is only taken up
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_training_starts_from_the_named_checkpoint(squares: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none\\.pth: no such file"):
        train_mctformer(squares, tmp_path, MCTformerSettings(pretrained=str(tmp_path / "none.pth")))
