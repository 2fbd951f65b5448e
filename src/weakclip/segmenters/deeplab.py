"""DeepLabV1 on ResNet38: the network that is retrained on pseudo masks of PASCAL VOC.

Two 3×3 convolutions of dilation 12 (512 channels, a rectifier between) on the last features; logits of stride 8.

References:
    Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015.
    The released code of Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation", CVPR
    2022, whose classifier this is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from weakclip.errors import ConfigError, WeightsError, first_line
from weakclip.modeling.state_files import check_fit, fill, read_state
from weakclip.segmenters.resnet38 import PUBLISHED_WIDTHS, ResNet38
from weakclip.store.files import atomic_write, write_json
from weakclip.store.untrusted_text import parse_json

MODEL_TYPE = "weakclip_deeplab_resnet38"
"""The model type in `config.json`; no AutoModel of transformers knows it."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_DILATION, _CHANNELS = 12, 512


class DeepLabOutput(NamedTuple):
    """The output of segmentation models of transformers, as far as it is used here.

    Args:
        logits: `(B, K, ⌈H/8⌉, ⌈W/8⌉)`.
    """

    logits: Tensor


class DeepLabResNet38(nn.Module):
    """DeepLabV1 with a ResNet38, called and saved like a model of transformers.

    Args:
        labels: names of the classes by index.
        widths: of the trunk.
        frozen: whether the trunk's norms and first convolution stay as they are, as the released code has it for a
            trunk that was trained on ImageNet.
    """

    def __init__(
        self, labels: Mapping[int, str], *, widths: Sequence[int] = PUBLISHED_WIDTHS, frozen: bool = False
    ) -> None:
        super().__init__()
        self.labels, self.frozen = dict(labels), frozen
        self.trunk = ResNet38(widths, frozen_norms=frozen, frozen=("conv1a",) if frozen else ())
        self.fc8_seg_conv1 = nn.Conv2d(widths[6], _CHANNELS, 3, padding=_DILATION, dilation=_DILATION)
        self.fc8_seg_conv2 = nn.Conv2d(_CHANNELS, len(labels), 3, padding=_DILATION, dilation=_DILATION)
        for layer in (self.fc8_seg_conv1, self.fc8_seg_conv2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, pixel_values: Tensor) -> DeepLabOutput:
        """Logits of normalised pixels `(B, 3, H, W)`."""
        hidden = F.relu(self.fc8_seg_conv1(self.trunk(pixel_values).conv6))
        return DeepLabOutput(self.fc8_seg_conv2(hidden))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all."""
        folder = Path(folder)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as file:
            file.write(save_tensors(state, metadata={"format": "pt"}))
        numbers = {"widths": self.trunk.widths, "frozen": self.frozen}
        write_json(folder / CONFIG_FILE, {"model_type": MODEL_TYPE, "id2label": self.labels, **numbers})


def is_deeplab(folder: str | Path) -> bool:
    """Whether `DeepLabResNet38.save_pretrained` wrote the folder."""
    try:
        content = parse_json((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") == MODEL_TYPE


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
        widths, frozen = content["widths"], content["frozen"]
        if not saved or not isinstance(frozen, bool):
            raise ConfigError(f"classes, and true or false expected; found {len(saved)} and frozen {frozen!r}")
        with torch.device("meta"):  # takes no memory, whatever the numbers say
            planned = DeepLabResNet38(saved, widths=widths)
    except ConfigError as error:
        raise WeightsError(f"{config}: damaged description: {error}; train the network again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        expected = "expected a JSON object with id2label, widths and frozen; train the network again"
        raise WeightsError(f"{config}: damaged description ({reason}); {expected}") from None
    state, _ = read_state(path)
    check_fit(planned, state, path, kind=f"the DeepLab of {CONFIG_FILE}")
    model = DeepLabResNet38(labels or saved, widths=widths, frozen=frozen)
    if labels and len(labels) != len(saved):
        state |= {f"fc8_seg_conv2.{name}": value for name, value in model.fc8_seg_conv2.state_dict().items()}
    fill(model, state, path, kind="DeepLab")
    return model
