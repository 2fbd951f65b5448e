"""Within a step, and between the windows of an image, nothing waits for the device: no value is read on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import host_reads
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.datasets import Sample
from weakclip.datasets.classes import VOC12
from weakclip.inference.windows import InferenceSettings, predict_batch
from weakclip.modeling import WeakCLIP, build_weakclip, mixed_logits
from weakclip.modeling.train import LossSettings, WeakCLIPLoss
from weakclip.seeds.clip_gradcam import ClipGradCAM
from weakclip.seeds.patch_text import PatchText, PatchTextSettings
from weakclip.training.loop import _Run
from weakclip.training.processes import open_processes
from weakclip.training.settings import TrainSettings


@pytest.fixture
def model(tiny_clip: FrozenCLIP) -> WeakCLIP:
    return build_weakclip(tiny_clip, VOC12, co_attention_width=16, decoder_channels=8)


@pytest.mark.parametrize("label_share", [0.0, 0.5])
def test_a_training_step_reads_once(model: WeakCLIP, tmp_path: Path, label_share: float) -> None:
    """The losses and the gradient's norm, together, before the optimiser."""
    generator = torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {"image": torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8, generator=generator)}
    batch["mask"] = torch.randint(0, 21, (2, 32, 40), dtype=torch.uint8, generator=generator)
    batch["shown"] = torch.ones(2, 21, dtype=torch.bool)
    loss = WeakCLIPLoss(LossSettings(size=8, crf=None, label_share=label_share, class_balance=True))
    run = _Run(model.train(), TrainSettings(steps=3, log_every=3), tmp_path, open_processes("cpu"), {})
    run.take_step(model, loss, batch)
    with host_reads() as found:
        run.take_step(model, loss, batch)
    assert found == ["tolist"]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_images_are_read_at_the_end(model: WeakCLIP, average: Any) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in range(2)]
    how = InferenceSettings(scales=(0.5, 1.0), crop=32, stride=21, average=average)
    network = model.eval()
    with host_reads() as found:
        probs = predict_batch(lambda x: mixed_logits(network(x), 0.5), images, how, device="cpu", classes=[0, 3])
    assert found == ["cpu", "numpy"] * 2
    assert probs[0].shape == (2, 40, 60)


@pytest.mark.parametrize(
    ("method", "settings"), [(ClipGradCAM, None), (PatchText, PatchTextSettings(fill_outliers=False))]
)
def test_seeds_are_read_for_their_boxes_and_at_the_end(tiny_clip: FrozenCLIP, method: type[Any], settings: Any) -> None:
    """`fill_outliers` also asks, in each of the last blocks, whether there are any."""
    maker = method(tiny_clip, VOC12, settings)
    sample = Sample("a", np.zeros((32, 48, 3), np.uint8), (1, 5, 7))
    maker.cam(sample)  # what is read once for all images
    with host_reads() as found:
        maker.cam(sample)
    assert found == ["cpu", "numpy", "cpu", "numpy"]


def test_the_watch_sees_what_waits() -> None:
    values = torch.tensor([1.0, 0.0])
    with host_reads() as found:
        bool(values[0] > 0), float(values[0]), values[values > 0], values.numpy(), values.sum().item()
        torch.equal(values, values), torch.unique(values)
        nn.functional.relu(values)
    assert found == ["__bool__", "__float__", "index by a mask", "numpy", "item", "equal", "_unique2"]
