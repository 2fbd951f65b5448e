"""AffinityNet on disk."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from weakclip.errors import WeightsError
from weakclip.images import atomic_write
from weakclip.modeling.affinitynet import AffinityNet
from weakclip.modeling.state_files import fill, read_state
from weakclip.safe_text import parse_json
from weakclip.safe_weights import check_room

_FORMAT = "affinitynet"
_LARGEST_RADIUS = 100  # the pairs within it are listed when the network is built; published: 5


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
        numbers = parse_json(metadata[_FORMAT])
        check_room(state, [before * after for before, after in pairwise(numbers["widths"])])
        if not 2 <= numbers["radius"] <= _LARGEST_RADIUS:
            raise ValueError(f"radius {numbers['radius']}")
        with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's draws stay
            model = AffinityNet(**numbers)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not written by save_affinitynet ({error!r})") from None
    fill(model, state, path, kind="AffinityNet")
    return model.to(device).eval()
