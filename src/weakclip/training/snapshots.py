"""Weights of a training by its step: averages where it keeps any, one safetensors file each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from weakclip.errors import WeightsError
from weakclip.store.untrusted_weights import load_safetensors, save_safetensors
from weakclip.training.checkpoint import copy_tensors, trained_tensors

SNAPSHOTS = "snapshots"
"""Folder of the snapshots in that of the training: `8000.safetensors`, …"""


def write_snapshot(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of a step into the folder of a training.

    Raises:
        StorageError: it cannot be written.
    """
    save_safetensors(folder / SNAPSHOTS / f"{step}.safetensors", tensors)


def kept_steps(folder: Path) -> list[int]:
    """The steps whose weights are in the folder of a training, in order."""
    return sorted(int(each.stem) for each in (folder / SNAPSHOTS).glob("*.safetensors") if each.stem.isdecimal())


def restore_snapshot(model: nn.Module, folder: Path, step: int) -> None:
    """Put the weights of a step in the place of a trained model's.

    Args:
        model: of the training in `folder`; parameters with `requires_grad` and their buffers are replaced.
        folder: of the training.
        step: one that was kept.

    Raises:
        WeightsError: no weights of that step, or of another model. No code in the file is run.
    """
    path = folder / SNAPSHOTS / f"{step}.safetensors"
    if not path.is_file():
        kept = kept_steps(folder)
        there = f"kept are {', '.join(map(str, kept))}" if kept else "none are kept"
        raise WeightsError(f"{path}: no weights of step {step}; {there}; train with a keep_every that divides it")
    try:
        tensors, _ = load_safetensors(path)
    except ValueError as error:
        raise WeightsError(f"{path}: not a safetensors file that can be read ({error}); train again") from None
    copy_tensors(tensors, trained_tensors(model), path)
