from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import WeightsError
from weakclip.modeling import build_weakclip
from weakclip.segmenters.segmenter import build_segmenter, load_segmenter, save_segmenter
from weakclip.segmenters.train import RetrainSettings, retrain, segmentation_loss, weakclip_segmentation_loss
from weakclip.training.dataset import TrainingPairs
from weakclip.training.settings import TrainSettings

AUGMENT = AugmentSettings(crop_size=48, scale=(0.8, 1.2))
TRAIN = TrainSettings(steps=40, batch_size=4, learning_rate=2e-3, warmup_steps=5, ema_decay=0.9)
SETTINGS = RetrainSettings(model="small", train=TRAIN, augment=AUGMENT)


@pytest.fixture
def pairs(squares: Any, seed_folder: Path) -> TrainingPairs:
    return TrainingPairs(squares, seed_folder, AUGMENT)


class Constant(nn.Module):
    """Logits that are the same everywhere, at half resolution."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (len(images), len(self.values), images.shape[2] // 2, images.shape[3] // 2)
        return self.values[None, :, None, None].expand(size)


def test_the_loss_is_the_mean_over_pixels_with_a_class():
    target = torch.tensor([[[0, 1], [255, 255]]], dtype=torch.uint8)
    batch = {"image": torch.zeros(1, 3, 2, 2), "mask": target}
    assert segmentation_loss(Constant(0.0, 0.0), batch)["loss"].item() == pytest.approx(0.6931, abs=1e-4)
    better = {**batch, "mask": torch.where(target == 1, 0, target)}
    assert segmentation_loss(Constant(3.0, 0.0), better)["loss"] < segmentation_loss(Constant(0.0, 0.0), batch)["loss"]


def test_a_batch_without_any_class_costs_nothing():
    model = Constant(1.0, 0.0)
    batch = {"image": torch.zeros(1, 3, 2, 2), "mask": torch.full((1, 2, 2), 255, dtype=torch.uint8)}
    loss = segmentation_loss(model, batch)["loss"]
    loss.backward()
    assert loss == 0
    assert model.values.grad.abs().sum() == 0


def test_a_network_learns_the_masks_and_loads_in_transformers(pairs: TrainingPairs, squares: Any, tmp_path: Path):
    from transformers import AutoModelForSemanticSegmentation

    retrain(pairs, tmp_path / "out", SETTINGS)
    network = load_segmenter(tmp_path / "out")
    images = torch.stack([torch.from_numpy(squares.image(index).transpose(2, 0, 1)) for index in range(2)])
    with torch.no_grad():
        logits = network(images)
        theirs = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
        assert theirs.config.id2label == {0: "background", 1: "red", 2: "blue"}
        normalised = (images / 255 - network.pixel_mean) / network.pixel_std
        assert torch.equal(theirs(normalised).logits, logits)
    labels = nn.functional.interpolate(logits, size=(48, 48), mode="bilinear").argmax(1)
    truth = torch.stack([torch.from_numpy(squares.truth(index)) for index in range(2)])
    assert (labels == truth).float().mean() > 0.9


def test_a_weakclip_is_trained_further_on_all_pixels(
    pairs: TrainingPairs, tiny_clip: FrozenCLIP, tmp_path: Path
) -> None:
    """From the given weights, its encoder untouched; a stopped training ends with the same bytes."""
    torch.manual_seed(0)
    model = build_weakclip(tiny_clip, pairs.dataset.class_set, co_attention_width=8, decoder_channels=8)
    start, encoder = copy.deepcopy(model.state_dict()), copy.deepcopy(tiny_clip.state_dict())
    settings = dataclasses.replace(SETTINGS, model="weakclip")
    batch = {name: torch.stack([pairs[(index, 0)][name] for index in range(4)]) for name in ("image", "mask")}
    with torch.no_grad():
        before = weakclip_segmentation_loss(model.eval(), batch)["loss"]
    retrain(pairs, tmp_path / "out", settings, start=model)
    with torch.no_grad():
        assert weakclip_segmentation_loss(model, batch)["loss"] < 0.7 * before
    assert all(torch.equal(value, tiny_clip.state_dict()[name]) for name, value in encoder.items())
    saved = (tmp_path / "out/model.safetensors").read_bytes()
    (tmp_path / "out/model.safetensors").unlink()
    model.load_state_dict(start)
    retrain(pairs, tmp_path / "out", settings, start=model)
    assert (tmp_path / "out/model.safetensors").read_bytes() == saved


def test_the_same_seed_gives_the_same_network(pairs: TrainingPairs, tmp_path: Path):
    settings = dataclasses.replace(SETTINGS, train=dataclasses.replace(TRAIN, steps=2))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(ord(name))
        retrain(pairs, tmp_path / name, settings, seed=seed)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_a_pretrained_folder_keeps_its_weights_and_statistics_and_gets_a_new_head(squares: Any, tmp_path: Path):
    network = build_segmenter("small", squares.class_set)
    network.pixel_mean.fill_(0.25)
    save_segmenter(network, tmp_path / "saved")
    more = ClassSet(names=(*squares.class_set.names, "green"))
    other = build_segmenter(str(tmp_path / "saved"), more)
    assert (other.pixel_mean == 0.25).all()
    assert other(torch.zeros(1, 3, 32, 32)).shape[1] == 4
    body = network.model.backbone.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in other.model.backbone.state_dict().items())
    assert not list((tmp_path / "saved").glob(".*"))


def test_saving_and_loading_say_nothing(squares: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    save_segmenter(build_segmenter("small", squares.class_set), tmp_path)
    load_segmenter(tmp_path)
    build_segmenter(str(tmp_path), ClassSet.from_foreground(["one"]))
    assert capfd.readouterr() == ("", "")


def test_pixels_are_normalised_alike_from_bytes_and_floats(squares: Any):
    network = build_segmenter("small", squares.class_set).eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(image.float() / 255))


def test_what_is_no_network_is_named(tmp_path: Path, squares: Any):
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    for attempt in (lambda: load_segmenter(tmp_path), lambda: build_segmenter(str(tmp_path), squares.class_set)):
        with pytest.raises(WeightsError, match="no semantic-segmentation model") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="offline"):
        build_segmenter("nobody/nothing", squares.class_set)


def test_an_error_without_a_message_is_named_by_its_class(squares: Any, monkeypatch: pytest.MonkeyPatch):
    from transformers import PretrainedConfig

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PretrainedConfig, "get_config_dict", fail)
    with pytest.raises(WeightsError, match=r"to be had .*: MemoryError"):
        build_segmenter("owner/model", squares.class_set)
