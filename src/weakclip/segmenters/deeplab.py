"""DeepLabV1 on ResNet38: the network that is retrained on pseudo masks of PASCAL VOC.

On the last features stand a 3×3 convolution of dilation 12 and a 1×1 one, 512 channels, norm and rectifier after each,
dropout, and a 1×1 classifier. Its logits, of stride 8, are enlarged to the image with their corners on the image's, in
training and in use alike.

References:
    Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015.
    github.com/Yingyue-L/deeplabv1-resnet38, with which the authors of WeakCLIP retrain: the head, its first weights,
    the momentum of the norms, and the corners (tools/net/deeplabv1.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.errors import ConfigError, WeightsError, first_line
from weakclip.modeling.state_files import check_fit, fill, read_state
from weakclip.segmenters.resnet38 import PUBLISHED_WIDTHS, ResNet38
from weakclip.store.files import read_json_if_any, write_json
from weakclip.store.untrusted_text import parse_json, short
from weakclip.store.untrusted_weights import save_safetensors

MODEL_TYPE = "weakclip_deeplab_resnet38"
"""The model type in `config.json`; no AutoModel of transformers knows it."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_DILATION, _CHANNELS, _DROPOUT = 12, 512, 0.5

RELEASED_MOMENTUM = 3e-4
"""Share of a batch in the norms' statistics, as retraining from an ImageNet trunk has it."""


class DeepLabOutput(NamedTuple):
    """The output of segmentation models of transformers, as far as it is used here.

    Args:
        logits: `(B, K, H, W)` float32.
    """

    logits: Tensor


class DeepLabResNet38(nn.Module):
    """DeepLabV1 with a ResNet38, called and saved like a model of transformers.

    Args:
        labels: names of the classes by index.
        widths: of the trunk.
        norm_momentum: share of a batch in the statistics of the norms, above 0, at most 1.
    """

    def __init__(
        self, labels: Mapping[int, str], *, widths: Sequence[int] = PUBLISHED_WIDTHS, norm_momentum: float = 0.1
    ) -> None:
        super().__init__()
        if not 0 < norm_momentum <= 1:
            raise ConfigError(f"norm_momentum: above 0, at most 1 expected; found {norm_momentum}")
        self.labels, self.norm_momentum = dict(labels), norm_momentum
        self.trunk = ResNet38(widths)
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(widths[6], _CHANNELS, 3, padding=_DILATION, dilation=_DILATION, bias=False),
            "bn1": nn.BatchNorm2d(_CHANNELS),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(_CHANNELS, _CHANNELS, 1, bias=False),
            "bn2": nn.BatchNorm2d(_CHANNELS),
            "relu2": nn.ReLU(),
            "dropout": nn.Dropout(_DROPOUT),
            "classifier": nn.Conv2d(_CHANNELS, len(labels), 1),
        }
        self.head = nn.Sequential(OrderedDict(layers))
        for layer in self.head:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = norm_momentum

    def forward(self, pixel_values: Tensor) -> DeepLabOutput:
        """Logits of normalised pixels `(B, 3, H, W)`."""
        logits: Tensor = self.head(self.trunk(pixel_values).conv6).float()
        size = pixel_values.shape[-2:]
        return DeepLabOutput(F.interpolate(logits, size=size, mode="bilinear", align_corners=True))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all."""
        folder = Path(folder)
        save_safetensors(folder / WEIGHTS_FILE, self.state_dict())
        numbers = {"widths": self.trunk.widths, "norm_momentum": self.norm_momentum}
        write_json(folder / CONFIG_FILE, {"model_type": MODEL_TYPE, "id2label": self.labels, **numbers})


def is_deeplab(folder: str | Path) -> bool:
    """Whether `DeepLabResNet38.save_pretrained` wrote the folder."""
    return read_json_if_any(Path(folder) / CONFIG_FILE).get("model_type") == MODEL_TYPE


def load_deeplab(folder: str | Path, labels: Mapping[int, str] | None = None) -> DeepLabResNet38:
    """The saved network; where `labels` are given, with their names and, if there are more or fewer, a new last layer.

    Raises:
        WeightsError: a damaged description, or weights that do not fit it; nothing of its size is built then. No code
            in a file is run.
    """
    config, path = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    try:
        content = parse_json(config.read_text(encoding="utf-8"))
        saved = {int(index): str(name) for index, name in content["id2label"].items()}
        widths, momentum = content["widths"], content["norm_momentum"]
        if not saved or not isinstance(momentum, float):
            raise ConfigError(f"classes, and a number expected; found {len(saved)} and norm_momentum {short(momentum)}")
        with torch.device("meta"):  # takes no memory, whatever the numbers say
            planned = DeepLabResNet38(saved, widths=widths, norm_momentum=momentum)
    except ConfigError as error:
        raise WeightsError(f"{config}: damaged description: {error}; train the network again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        expected = "expected a JSON object with id2label, widths and norm_momentum; train the network again"
        raise WeightsError(f"{config}: damaged description ({reason}); {expected}") from None
    state, _ = read_state(path)
    check_fit(planned, state, path, kind=f"the DeepLab of {CONFIG_FILE}")
    model = DeepLabResNet38(labels or saved, widths=widths, norm_momentum=momentum)
    if labels and len(labels) != len(saved):
        own = model.state_dict()
        state |= {name: own[name] for name in own if name.startswith("head.classifier.")}
    fill(model, state, path, kind="DeepLab")
    return model
