"""Weights from a file, read without running any code in it, and put into a model by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from weakclip.errors import WeightsError
from weakclip.store.untrusted_text import some
from weakclip.store.untrusted_weights import load_safetensors, load_torch


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata of a `.safetensors` file.

    Args:
        path: `.safetensors`, or a `.pth` that holds a dictionary of tensors, or one under `model`; a `module.` before
            every name (of torch's wrappers for several devices) is taken off.

    Raises:
        WeightsError: no such file, or not such a dictionary. No code in the file is run.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; expected weights as .pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        content = load_torch(path)
    except ValueError as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({error})") from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: expected a dictionary of tensors, or one under `model`")
    return {str(name).removeprefix("module."): value for name, value in state.items()}, {}


def check_fit(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, kind: str) -> None:
    """See that tensors are those of a model, by name and shape; the model may be one on the device "meta".

    Args:
        model: what they are for.
        state: tensors by name.
        path: where they come from, for the message.
        kind: what the model is, for the message.

    Raises:
        WeightsError: names that are missing, unexpected or of another shape; eight of them are told.
    """
    if problems := misfits(model.state_dict(), state):
        raise WeightsError(f"{path}: does not fit {kind}: {problems}")


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Names that are missing, unexpected or of another shape, the first eight; empty where all tensors fit."""
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    return some(problems, 8, more=f" and {len(problems) - 8} more")


def fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, *, kind: str) -> None:
    """Copy tensors by name into every tensor of a model; arguments and errors as of `check_fit`."""
    check_fit(model, state, path, kind=kind)
    model.load_state_dict(state)
