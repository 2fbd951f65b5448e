"""AffinityNet on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from weakclip.errors import ConfigError, WeightsError, first_line
from weakclip.modeling.state_files import check_fit, fill, read_state
from weakclip.seeds.affinitynet.model import AffinityNet
from weakclip.store.untrusted_text import parse_json
from weakclip.store.untrusted_weights import save_safetensors

_FORMAT = "affinitynet"
_LARGEST_RADIUS = 100  # the pairs within it are listed when the network is built; published: 5


def save_affinitynet(model: AffinityNet, path: str | Path) -> None:
    """Write the weights as safetensors, with what builds the network; the file appears whole or not at all."""
    numbers = {"widths": model.trunk.widths, "reductions": model.reductions, "radius": model.radius}
    save_safetensors(path, model.state_dict(), {_FORMAT: json.dumps(numbers)})


def load_affinitynet(path: str | Path, *, device: str | torch.device = "cpu") -> AffinityNet:
    """Loads what `save_affinitynet` wrote, in evaluation mode.

    Raises:
        WeightsError: no such file, not an AffinityNet of ours, or one whose numbers and tensors do not fit; nothing
            of its size is built then. No code in the file is run.
    """
    state, metadata = read_state(Path(path))
    if _FORMAT not in metadata:
        raise WeightsError(f"{path}: not written by save_affinitynet; expected {_FORMAT!r} among its metadata")
    try:
        numbers = parse_json(metadata[_FORMAT])
        if isinstance(numbers, dict) and isinstance(radius := numbers.get("radius"), int) and radius > _LARGEST_RADIUS:
            raise ConfigError(f"radius {radius}; expected at most {_LARGEST_RADIUS}")
        with torch.device("meta"):  # takes no memory, whatever the numbers say
            planned = AffinityNet(**numbers)
    except ConfigError as error:
        raise WeightsError(f"{path}: damaged metadata: {error}; train the network again") from None
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        expected = "expected a JSON object with widths, reductions and radius; train the network again"
        raise WeightsError(f"{path}: damaged metadata ({reason}); {expected}") from None
    check_fit(planned, state, path, kind="the AffinityNet of its metadata")
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's draws stay
        model = AffinityNet(**numbers)
    fill(model, state, path, kind="AffinityNet")
    return model.to(device).eval()
