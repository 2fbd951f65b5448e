"""AffinityNet on disk, and the ImageNet checkpoints that a ResNet38 starts from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from weakclip.errors import WeightsError
from weakclip.images import atomic_write
from weakclip.modeling.affinitynet import AffinityNet
from weakclip.modeling.resnet38 import ResNet38
from weakclip.modeling.state_files import fill, read_state

_FORMAT = "affinitynet"
_HEADS = ("f8_", "f9.", "fc8", "linear1000")
"""What the released checkpoints hold beside the trunk: AffinityNet's own layers and classifiers."""


def save_affinitynet(model: AffinityNet, path: str | Path) -> None:
    """Write the weights as safetensors, with what builds the network; the file appears whole or not at all."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    numbers = {"widths": model.trunk.widths, "reductions": model.reductions, "radius": model.radius}
    with atomic_write(path) as file:
        file.write(save_tensors(state, metadata={_FORMAT: json.dumps(numbers)}))


def load_affinitynet(path: str | Path, *, device: str | torch.device = "cpu") -> AffinityNet:
    """What `save_affinitynet` wrote, in evaluation mode.

    Raises:
        WeightsError: no such file, or not an AffinityNet of ours. No code in the file is run.
    """
    state, metadata = read_state(Path(path))
    try:
        numbers = json.loads(metadata[_FORMAT])
        with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's draws stay
            model = AffinityNet(**numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not written by save_affinitynet ({error!r})") from None
    fill(model, state, path, kind="AffinityNet")
    return model.to(device).eval()


def start_from_imagenet(trunk: ResNet38, path: str | Path) -> None:
    """Fill a ResNet38 with one that was trained before; what the file holds beside the trunk is left out.

    Args:
        trunk: of the file's widths.
        path: a checkpoint with the names of the released code of AffinityNet ("b2.conv_branch2a.weight"), `.pth` or
            `.safetensors`. The MXNet file of the ResNet38's authors is not read.

    Raises:
        WeightsError: no such file, or one that holds no such trunk. No code in the file is run.
    """
    path = Path(path).expanduser()
    if path.suffix == ".params":
        raise WeightsError(f"{path}: an MXNet file; expected a torch checkpoint, .pth or .safetensors")
    state, _ = read_state(path)
    state = {name.removeprefix("trunk."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    counters = {name: value for name, value in trunk.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(trunk, counters | state, path, kind="ResNet38")
