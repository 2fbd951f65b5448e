"""Encoders by their names, those that Python code makes among them: `python:MODULE:FUNCTION`.

Such a name runs code. It is followed where the user gives it, in a configuration of theirs or on the command line, and
never where it stands in a folder of results: `load_clip` refuses it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from weakclip.clip.encoder import Encoder, check_encoder
from weakclip.clip.load import CODE, load_clip
from weakclip.errors import EncoderError, WeakCLIPError, first_line


def load_encoder(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    tap_layers: Sequence[int] | None = None,
    vocabulary: str | Path | None = None,
) -> Encoder:
    """Load the encoder that a user names. Give it no name that comes from a file of somebody else: it can run code.

    Args:
        source: `python:MODULE:FUNCTION`, or what `load_clip` takes. The module is looked for on the Python path, then
            in the current directory; the function takes no arguments and returns an `Encoder`.
        device: where the weights go.
        tap_layers: as for `load_clip`; only for CLIP.
        vocabulary: as for `load_clip`; only for CLIP.

    Raises:
        EncoderError: no such module or function, one that fails, or what it returns is no `Encoder`.
        WeightsError: as `load_clip`.
    """
    if not is_code(source):
        return load_clip(source, device=device, tap_layers=tap_layers, vocabulary=vocabulary)
    try:
        made = _function(str(source))()
    except WeakCLIPError:
        raise
    except Exception as error:  # whatever the user's code raises; the chain keeps its traceback
        raise EncoderError(f"{source}: fails with {type(error).__name__}: {first_line(error)}") from error
    try:
        encoder = check_encoder(made)
    except EncoderError as error:
        raise EncoderError(f"{source}: {error}") from None
    cast(nn.Module, encoder).to(device)
    return encoder


def is_code(source: str | Path) -> bool:
    """Whether a name stands for Python code."""
    return str(source).startswith(CODE)


def _function(source: str) -> Callable[[], Any]:
    parts = re.fullmatch(r"python:([\w.]+):(\w+)", source)
    if parts is None:
        raise EncoderError(f"{source}: python:MODULE:FUNCTION expected, for instance python:my_encoder:build")
    name, function = parts.groups()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file here takes the place of an installed module
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise EncoderError(
            f"{source}: no module {error.name!r} on the Python path or in {os.getcwd()}; start where {name}.py lies"
        ) from None
    found = getattr(module, function, None)
    if not callable(found):
        raise EncoderError(f"{source}: {getattr(module, '__file__', name)} has no function {function!r}")
    return cast(Callable[[], Any], found)
