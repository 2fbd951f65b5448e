"""Ordinary segmentation networks, from transformers or our own DeepLab, as modules from images to logits.

Pixel statistics belong to the network (buffers), and are saved beside it in the file where transformers keeps them.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from weakclip.clip.hub_files import (
    IMAGENET,
    IMAGENET_MEAN,
    IMAGENET_STD,
    cache_first,
    load_pretrained,
    pixel_statistics,
    quiet_transformers,
)
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeightsError, first_line
from weakclip.segmenters.deeplab import RELEASED_MOMENTUM, DeepLabResNet38, is_deeplab, load_deeplab
from weakclip.segmenters.trunk_files import start_from_imagenet
from weakclip.store.files import copy_file, temporary_name, write_json, writing
from weakclip.training.snapshots import restore_snapshot

SMALL = "small"
"""Name of the small network that is trained from scratch."""

DEEPLAB = "deeplab_resnet38"
"""Name of DeepLabV1 with a ResNet38, the paper's network on PASCAL VOC."""

BUILT_IN = (SMALL, DEEPLAB)
"""Names that mean a network of this package, whatever lies in the working directory."""

_STATISTICS_FILE = "preprocessor_config.json"
"""For versions of transformers before 5, too."""


class Segmenter(nn.Module):
    """A semantic-segmentation model of transformers that normalises its own pixels.

    Args:
        model: has `config`, and `model(pixel_values=…).logits`.
        pixel_mean: mean of each channel, 0…1.
        pixel_std: standard deviation of each channel, 0…1.
    """

    def __init__(self, model: nn.Module, *, pixel_mean: tuple[float, ...], pixel_std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).reshape(3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).reshape(3, 1, 1))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        model: Any = self.model
        labels = model.labels if isinstance(model, DeepLabResNet38) else model.config.id2label
        return tuple(str(labels[index]) for index in sorted(labels))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            images: `(B, 3, H, W)` RGB, uint8 0…255 or float 0…1.

        Returns:
            `(B, K, h, w)`; the network decides on the resolution.
        """
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        logits: Tensor = self.model(pixel_values=(pixels - self.pixel_mean) / self.pixel_std).logits
        return logits


def build_segmenter(source: str, class_set: ClassSet, *, pretrained: str | None = None) -> Segmenter:
    """A network to be trained, with an output for each class.

    Args:
        source: "small" for a small UperNet with fresh weights from torch's global generator, "deeplab_resnet38", what
            `AutoModelForSemanticSegmentation` takes: an id on the hub or a folder ("nvidia/mit-b2"), or a folder in
            which a "deeplab_resnet38" was saved.
        class_set: the classes; their names are kept in the network's `config.json`.
        pretrained: only for "deeplab_resnet38": a checkpoint of its trunk; None for fresh weights.

    Raises:
        WeightsError: nothing there, or no semantic-segmentation model.
    """
    labels = dict(enumerate(class_set.names))
    if source == SMALL:
        return Segmenter(_small_network(labels), pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
    if source == DEEPLAB:
        deeplab = DeepLabResNet38(labels, norm_momentum=0.1 if pretrained is None else RELEASED_MOMENTUM)
        if pretrained is not None:
            start_from_imagenet(deeplab.trunk, pretrained)
        return Segmenter(deeplab, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
    mean, std = pixel_statistics(source, IMAGENET)
    model = _from_pretrained(source, labels)
    return Segmenter(model, pixel_mean=mean, pixel_std=std)


def save_segmenter(segmenter: Segmenter, folder: Path | str) -> None:
    """Write the network so that `load_segmenter` loads it, and, unless it is our own DeepLab, which no AutoModel knows,
    `AutoModelForSemanticSegmentation.from_pretrained(folder)` too.

    Args:
        segmenter: the network.
        folder: gets `config.json`, `model.safetensors` and `preprocessor_config.json`, each whole or not at all.
    """
    folder = Path(folder)
    statistics = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": segmenter.pixel_mean.flatten().tolist(),
        "image_std": segmenter.pixel_std.flatten().tolist(),
    }
    write_json(folder / _STATISTICS_FILE, statistics)
    model: Any = segmenter.model
    prefix, suffix = temporary_name("network")
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=folder) as temporary, quiet_transformers():
        with writing(folder / "model.safetensors"), _system_errors():
            model.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            copy_file(path, folder / path.name)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """An `OSError` in the place of what safetensors makes of one: "… No space left on device (os error 28)"."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def load_segmenter(folder: Path | str, *, device: str | torch.device = "cpu", step: int | None = None) -> Segmenter:
    """Load what `save_segmenter` wrote, in evaluation mode.

    Args:
        folder: of the network, which is that of its training where a step is asked for.
        device: where to.
        step: of the training whose weights it has, of those that were kept; None for its result.

    Raises:
        WeightsError: nothing there, no semantic-segmentation model, or no weights of that step.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no saved segmentation network (no config.json); train one into it first")
    mean, std = pixel_statistics(str(folder), IMAGENET)
    segmenter = Segmenter(_from_pretrained(str(folder)), pixel_mean=mean, pixel_std=std)
    if step is not None:
        restore_snapshot(segmenter, folder, step)
    return segmenter.to(device).eval()


def _small_network(labels: dict[int, str]) -> nn.Module:
    """UperNet on a ResNet of eight convolutions, 0.6 million parameters.

    Convolutions and batch norm, because a few hundred images must do: in single trials on the true masks of 500 Scenes
    a SegFormer of its size, trained from scratch for as long, stayed near the score of all background.
    """
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    numbers = {
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 96, 128],  # whole blocks of 16, for the strided shortcuts: see ResidualBlock
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    backbone = ResNetConfig.from_dict(numbers)
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=32,
        pool_scales=[2, 4],  # no pooling to one pixel: batch norm could not train on a batch of one image
        use_auxiliary_head=False,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
    )
    return UperNetForSemanticSegmentation(config)


def _from_pretrained(source: str, labels: dict[int, str] | None = None) -> nn.Module:
    """The saved network; where `labels` are given, with their names and, if there are more or fewer, a new head."""
    from transformers import AutoModelForSemanticSegmentation

    if is_deeplab(source):
        return load_deeplab(source, labels)
    changes: dict[str, Any] = {"ignore_mismatched_sizes": bool(labels)}
    if labels:
        changes |= {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    model, _ = load_pretrained(
        source, lambda settings: AutoModelForSemanticSegmentation, complaint=_missing(source), changes=changes
    )
    return model


def check_available(source: str) -> None:
    """Ask whether a network of transformers is there, before hours are spent; its description is all that is read.

    Raises:
        WeightsError: it is not.
    """
    from transformers import PretrainedConfig

    if source not in BUILT_IN and not is_deeplab(source):
        try:
            cache_first(source, lambda here: PretrainedConfig.get_config_dict(source, local_files_only=here))
        except Exception as error:  # transformers and the hub raise many kinds; the reader needs one line
            raise WeightsError(f"{_missing(source)}: {first_line(error)}") from None


def _missing(source: str) -> str:
    where = "in this folder" if Path(source).is_dir() else "in the cache or on the hub (is the machine offline?)"
    return f"{source}: no semantic-segmentation model to be had {where}"
