"""The checkpoints, of ImageNet or of a later training, that a ResNet38 starts from."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from weakclip.errors import WeightsError
from weakclip.modeling.state_files import fill, read_state
from weakclip.segmenters.resnet38 import ResNet38
from weakclip.store.files import expand_home
from weakclip.store.untrusted_mxnet import read_mxnet

RESNET38_START = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params (linked from github.com/Yingyue-L/deeplabv1-resnet38)"
"""The file of the ResNet38's authors, trained on ImageNet, and where to get it, in words."""

_HEADS = ("f8_", "f9.", "fc8", "linear1000")
"""Tensors of the released checkpoints beside the trunk: AffinityNet's own layers and classifiers."""

_MXNET_KINDS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
    "weight": "weight",
}


def start_from_imagenet(trunk: ResNet38, path: str | Path) -> None:
    """Fill a ResNet38 with one that was trained before; what the file holds beside the trunk is left out.

    Args:
        trunk: of the file's widths.
        path: a checkpoint with the names of the released code of AffinityNet ("b2.conv_branch2a.weight"), `.pth` or
            `.safetensors`; or the MXNet file of the ResNet38's authors, `.params`.

    Raises:
        WeightsError: no such file, or one that holds no such trunk. No code in the file is run.
    """
    path = expand_home(path)
    state = _read_params(path) if path.suffix == ".params" else read_state(path)[0]
    state = {name.removeprefix("trunk."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    counters = {name: value for name, value in trunk.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(trunk, counters | state, path, kind="ResNet38")


def _read_params(path: Path) -> dict[str, Tensor]:
    """The tensors of the authors' file by the names of the released code of AffinityNet."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected weights as .params, .pth or .safetensors")
    try:
        arrays = read_mxnet(path)
    except ValueError as error:
        raise WeightsError(f"{path}: not an MXNet file that can be read safely ({error})") from None
    return {torch_name(name): torch.from_numpy(values.astype("float32")) for name, values in arrays.items()}


def torch_name(name: str) -> str:
    """The released code's name of a tensor of the MXNet file; other names are left as they are.

    >>> [torch_name(name) for name in ("arg:conv1a_weight", "aux:bn7_moving_mean", "arg:res4b5_branch2b1_weight")]
    ['conv1a.weight', 'bn7.running_mean', 'b4_5.conv_branch2b1.weight']
    >>> torch_name("aux:bn2a_branch2a_moving_var")
    'b2.bn_branch2a.running_var'
    """
    name = name.removeprefix("arg:").removeprefix("aux:")
    block = re.fullmatch(r"(res|bn)(\d)(a|b(\d))_(branch\w+?)_(weight|gamma|beta|moving_mean|moving_var)", name)
    if block:
        kind, stage, _, index, branch, part = block.groups()
        layer = "conv" if kind == "res" else "bn"
        return f"b{stage}{f'_{index}' if index else ''}.{layer}_{branch}.{_MXNET_KINDS[part]}"
    single = re.fullmatch(r"(conv1a|bn7)_(weight|gamma|beta|moving_mean|moving_var)", name)
    return f"{single[1]}.{_MXNET_KINDS[single[2]]}" if single else name
