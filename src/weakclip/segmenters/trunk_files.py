"""The checkpoints, of ImageNet or of a later training, that a ResNet38 starts from."""

from __future__ import annotations

from pathlib import Path

from weakclip.errors import WeightsError
from weakclip.modeling.state_files import fill, read_state
from weakclip.segmenters.resnet38 import ResNet38
from weakclip.store.files import expand_home

_HEADS = ("f8_", "f9.", "fc8", "linear1000")
"""Tensors of the released checkpoints beside the trunk: AffinityNet's own layers and classifiers."""


def start_from_imagenet(trunk: ResNet38, path: str | Path) -> None:
    """Fill a ResNet38 with one that was trained before; what the file holds beside the trunk is left out.

    Args:
        trunk: of the file's widths.
        path: a checkpoint with the names of the released code of AffinityNet ("b2.conv_branch2a.weight"), `.pth` or
            `.safetensors`. The MXNet file of the ResNet38's authors is not read.

    Raises:
        WeightsError: no such file, or one that holds no such trunk. No code in the file is run.
    """
    path = expand_home(path)
    if path.suffix == ".params":
        raise WeightsError(f"{path}: an MXNet file; expected a torch checkpoint, .pth or .safetensors")
    state, _ = read_state(path)
    state = {name.removeprefix("trunk."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    counters = {name: value for name, value in trunk.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(trunk, counters | state, path, kind="ResNet38")
