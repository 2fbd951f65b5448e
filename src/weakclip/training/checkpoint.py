"""Checkpoints of training: one safetensors file with only what is trained, whole or not at all, never a pickle.

Names inside the file: `model/NAME` parameters with a gradient and buffers of trained modules (batch-norm statistics),
`average/NAME` their moving averages, `optimizer/KEY/NAME` the optimiser's state, `log/NAME` sums since the last log
line, `bad_steps/NAME` counts of skipped steps; step and settings as metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weakclip.errors import WeightsError
from weakclip.store.untrusted_text import parse_json, short
from weakclip.store.untrusted_weights import load_safetensors, save_safetensors

_FORMAT = "weakclip-training-2"
_GROUPS = ("model", "average", "optimizer", "log", "bad_steps")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps.

    Args:
        step: steps done.
        tensors: group (`model`, `average`, `optimizer`, `log`, `bad_steps`) → name → tensor.
        settings: what the run was started with, JSON values.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    settings: dict[str, Any]


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: parameters with a gradient, and saved buffers outside of frozen modules.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).requires_grad_(False), nn.BatchNorm1d(1))
    >>> sorted(name for name in trained_tensors(model) if "running" in name)
    ['2.running_mean', '2.running_var']
    """
    tensors: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    frozen = tuple(f"{name}." for name, module in model.named_modules() if name and _is_frozen(module))
    saved = model.state_dict(keep_vars=True).keys()
    for name, value in model.named_buffers():
        if name in saved and not name.startswith(frozen):
            tensors[name] = value
    return tensors


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the place of the one before it; a kill meanwhile leaves the old one.

    Equal states make equal files, byte for byte.

    Raises:
        StorageError: it cannot be written; the old one stays.
    """
    groups = checkpoint.tensors.items()
    flat = {f"{group}/{name}": tensor for group, tensors in groups for name, tensor in tensors.items()}
    header = {"step": checkpoint.step, "settings": checkpoint.settings}
    save_safetensors(path, flat, {_FORMAT: json.dumps(header)})


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        WeightsError: the file is broken, or not a checkpoint of weakclip's training.
    """
    advice = "move it away to start the training again"
    try:
        flat, metadata = load_safetensors(path)
        if _FORMAT not in metadata:
            raise WeightsError(f"{path}: not a checkpoint of weakclip's training (no {_FORMAT!r} mark); {advice}")
        tensors: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
        for key, tensor in flat.items():
            group, name = key.split("/", 1)
            tensors[group][name] = tensor
        header = parse_json(metadata[_FORMAT])
        _check(header, tensors)
        return Checkpoint(header["step"], tensors, header["settings"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: broken checkpoint ({error}); {advice}") from None


def _check(header: Any, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Checks the entries that a training trusts: the step, the settings, and sums and counts that are numbers."""
    step, settings = header["step"], header["settings"]
    if not isinstance(step, int) or step < 0 or not isinstance(settings, dict):
        raise ValueError(f"step {short(step)}; expected a whole number, 0 or more, and settings")
    if "count" not in tensors["log"]:
        raise ValueError("no log/count")
    for name, value in {**tensors["log"], **tensors["bad_steps"]}.items():
        if value.ndim or not bool(value.isfinite()):
            raise ValueError(f"{name} is no finite number")


def copy_tensors(source: dict[str, Tensor], target: dict[str, Tensor], path: Path | str) -> None:
    """Copy tensors by name, in place.

    Args:
        source: what was read.
        target: what is to be filled; names and shapes must be the same.
        path: the file that `source` comes from, for the message.

    Raises:
        WeightsError: names or shapes differ: the checkpoint is of another model.
    """
    differing = sorted(source.keys() ^ target.keys())
    differing += sorted(name for name in source.keys() & target.keys() if source[name].shape != target[name].shape)
    if differing:
        raise WeightsError(
            f"{path}: checkpoint of another model ({len(differing)} tensors differ, first {differing[0]!r}); "
            "move it away to start the training again"
        )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME`."""
    return {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[Tensor, str], tensors: dict[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` back.

    Raises:
        ValueError: a tensor of another shape than its parameter.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = sorted({key.split("/", 1)[0] for key in tensors})
    for number, parameter in enumerate(parameters):
        found = {key: tensors[f"{key}/{names[parameter]}"] for key in keys if f"{key}/{names[parameter]}" in tensors}
        odd = [key for key, value in found.items() if value.ndim and value.shape != parameter.shape]
        if odd:
            raise ValueError(f"{odd[0]}/{names[parameter]} of {tuple(found[odd[0]].shape)}")
        if found:
            state[number] = {key: _laid_out_as(parameter, value) for key, value in found.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` in the memory order of `parameter`: the fused optimisers go through both side by side."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and value.ndim else value
