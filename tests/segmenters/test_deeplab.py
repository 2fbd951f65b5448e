"""DeepLabV1 with a ResNet38 as the network that is retrained: it trains, is saved, and is loaded the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weakclip.datasets.classes import ClassSet
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError, WeightsError
from weakclip.segmenters.deeplab import DeepLabResNet38
from weakclip.segmenters.segmenter import Segmenter, build_segmenter, load_segmenter, save_segmenter
from weakclip.segmenters.train import RetrainSettings, retrain, segmentation_loss
from weakclip.training.dataset import TrainingPairs
from weakclip.training.settings import TrainSettings

WIDTHS = (4, 4, 8, 8, 16, 16, 32)
AUGMENT = AugmentSettings(crop_size=48, scale=(0.8, 1.2))


def small(class_set: ClassSet, *, momentum: float = 0.1) -> Segmenter:
    model = DeepLabResNet38(dict(enumerate(class_set.names)), widths=WIDTHS, norm_momentum=momentum)
    return Segmenter(model, pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.2, 0.2, 0.2))


def test_the_published_network_has_its_published_size() -> None:
    """The trunk's 105,070,912; of the head 3×3×4096×512, 512×512, 512×21 + 21, and two norms of 2×512."""
    with torch.device("meta"):
        model = DeepLabResNet38(dict.fromkeys(range(21), ""))
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == 105_070_912 + 18_874_368 + 262_144 + 10_773 + 2048
    )


def test_every_parameter_gets_a_gradient(squares: Any) -> None:
    network = small(squares.class_set)
    image = torch.from_numpy(squares.image(0)).permute(2, 0, 1)[None]
    batch = {"image": image.expand(2, -1, -1, -1), "mask": torch.from_numpy(squares.truth(0))[None].expand(2, -1, -1)}
    segmentation_loss(network, batch)["loss"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_head_is_that_of_the_retraining_repository() -> None:
    head = DeepLabResNet38({0: "background", 1: "cat"}, widths=WIDTHS).head
    kinds = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d"]
    assert [type(layer).__name__ for layer in head] == kinds
    first, second, last = (layer for layer in head if isinstance(layer, nn.Conv2d))
    assert (first.kernel_size, first.dilation, first.padding, first.bias) == ((3, 3), (12, 12), (12, 12), None)
    assert (second.kernel_size, second.bias, last.kernel_size, last.out_channels) == ((1, 1), None, (1, 1), 2)
    assert last.bias is not None and head.dropout.p == 0.5


def test_the_corners_of_the_logits_are_those_of_the_image() -> None:
    """As the retraining repository enlarges them (tools/net/deeplabv1.py), in training and in use."""
    network = DeepLabResNet38({0: "background", 1: "cat"}, widths=WIDTHS).eval()
    image = torch.rand(1, 3, 41, 57)
    coarse, enlarged = network.head(network.trunk(image).conv6), network(image).logits
    assert coarse.shape[-2:] == (6, 8) and enlarged.shape[-2:] == (41, 57)
    for row in (0, -1):
        for column in (0, -1):
            assert torch.allclose(enlarged[..., row, column], coarse[..., row, column], atol=1e-6)
    assert torch.allclose(enlarged[..., ::8, ::8], coarse, atol=1e-5), "40 = 5 × 8 and 56 = 7 × 8"


@pytest.mark.parametrize("momentum", [0.1, 3e-4])
def test_it_is_loaded_with_the_same_logits(squares: Any, tmp_path: Path, momentum: float) -> None:
    network, image = small(squares.class_set, momentum=momentum).eval(), torch.rand(1, 3, 33, 40)
    save_segmenter(network, tmp_path)
    loaded = load_segmenter(tmp_path)
    assert network(image).shape == (1, 3, 33, 40)
    assert torch.equal(loaded(image), network(image)) and not loaded.training
    norms = [module for module in loaded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert isinstance(loaded.model, DeepLabResNet38) and {norm.momentum for norm in norms} == {momentum}
    more = ClassSet(names=(*squares.class_set.names, "green"))
    assert build_segmenter(str(tmp_path), more)(image).shape[1] == 4


def test_a_step_of_retraining(squares: Any, seed_folder: Path, tmp_path: Path) -> None:
    save_segmenter(small(squares.class_set), tmp_path / "start")
    train = TrainSettings(steps=2, batch_size=2, learning_rate=1e-2, warmup_steps=0, ema_decay=0.0)
    settings = RetrainSettings(model=str(tmp_path / "start"), train=train, augment=AUGMENT)
    retrain(TrainingPairs(squares, seed_folder, AUGMENT), tmp_path / "end", settings)
    before, after = (load_segmenter(tmp_path / name).state_dict() for name in ("start", "end"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"model.trunk.conv1a.weight", "model.head.classifier.bias"} <= changed


def test_mistakes_are_told(squares: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pretrained: null expected for small"):
        RetrainSettings(model="small", pretrained="trunk.pth")
    save_segmenter(small(squares.class_set), tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("widths", "width"))
    with pytest.raises(WeightsError, match=r"config\.json: damaged description"):
        load_segmenter(tmp_path)
