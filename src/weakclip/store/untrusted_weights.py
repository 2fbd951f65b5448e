"""Weights from files that somebody else may have written. torch is imported inside: this module starts without it.

No code in a file is run: `torch.load` reads with `weights_only=True`, safetensors has no code. What is left are files
that lie: tensors of a trillion elements on a storage of four bytes (stride 0), or ones without memory of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weakclip.errors import first_line
from weakclip.store.files import atomic_write
from weakclip.store.untrusted_text import one_line, short

if TYPE_CHECKING:
    from torch import Tensor

MOST_LAYERS = 1000
_LAYERS = ("num_hidden_layers", "num_layers", "depths", "decoder_layers", "encoder_layers", "num_blocks")
_PROGRAMS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Of a `config.json`: how many layers there are, at most, and what chooses code."""


def load_torch(path: Path | str) -> Any:
    """The content of a `.pth` or `.pt`: tensors, numbers, text and containers of them, on the CPU.

    Raises:
        ValueError: anything else, in one line that names no file.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything
        said = first_line(error)
        if any(word in str(error) for word in ("weights_only", "WeightsUnpickler")):  # its advice is unsafe
            said = "it holds more than plain tensors"
        raise ValueError(one_line(said)) from None
    check_tensors(_tensors_of(content, set()))
    return content


def load_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` file.

    Raises:
        ValueError: no such file, a header that does not fit it, or another kind of file, in one line.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(one_line(str(error)) or type(error).__name__) from None


def save_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a `.safetensors` file, whole or not at all; equal tensors make equal files, byte for byte.

    Args:
        path: the file.
        tensors: of any device and memory order.
        metadata: one entry, for safetensors writes several in no fixed order; None for transformers' `format`.

    Raises:
        StorageError: it cannot be written; what was there stays.
    """
    from safetensors.torch import save

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(content, dict(metadata or {"format": "pt"})))


def check_tensors(tensors: Iterable[Tensor]) -> None:
    """Ordinary tensors, each with memory for all of its elements.

    Raises:
        ValueError: another kind of tensor, or a small storage that is shown as a large tensor.
    """
    import torch

    for tensor in tensors:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            raise ValueError(f"it holds a {'meta' if tensor.is_meta else kind} tensor; expected ordinary ones")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"it shows {tensor.untyped_storage().nbytes()} bytes as a tensor of {tuple(tensor.shape)}")


def check_room(state: Mapping[str, Tensor], products: Iterable[int]) -> None:
    """The sizes that a model is built with are those of the file, and no description of a model beyond all memory.

    Args:
        state: the file's tensors.
        products: elements of some of the model's tensors.

    Raises:
        ValueError: a tensor with more elements than all tensors of the file, or a layer with a number beyond theirs.
    """
    total = sum(tensor.numel() for tensor in state.values())
    largest = max(products, default=0)
    if largest > total:
        raise ValueError(f"a tensor of {largest:,} numbers is described; the file has {total:,} in all")
    for name in state:
        number = next((part for part in name.split(".") if part.isdecimal() and int(part[:9]) > len(state)), None)
        if number is not None:
            raise ValueError(f"{name} of {len(state)} tensors")


def _tensors_of(content: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor in nested containers, each container once."""
    import torch

    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pending += value.values() if isinstance(value, Mapping) else value


def check_config(config: object) -> None:
    """Refuse a `config.json` of transformers that fetches something else, or stands for endless work.

    A kernel for the attention comes from the hub as compiled code; a `backbone` that is named is fetched, even where
    all else lies in a folder, and may bring code of its own. Layers are built one by one before any weight is read.

    Raises:
        ValueError: such a description.

    >>> check_config({"model_type": "clip", "vision_config": {"num_hidden_layers": 12}})
    >>> check_config({"attn_implementation": "somebody/kernel"})
    Traceback (most recent call last):
        ...
    ValueError: config.json: attn_implementation 'somebody/kernel' is a program from elsewhere; remove it
    """
    if isinstance(config, list):
        for part in config:
            check_config(part)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key in _PROGRAMS and "/" in str(value):
            raise ValueError(f"config.json: {key} {short(value)} is a program from elsewhere; remove it")
        if key == "backbone" and value is not None:
            raise ValueError(
                f"config.json: backbone {short(value)} lies elsewhere; expected backbone_config and null here"
            )
        layers = sum(value) if key in _LAYERS and _are_numbers(value) else value if key in _LAYERS else 0
        if isinstance(layers, int | float) and layers > MOST_LAYERS:
            raise ValueError(f"config.json: {key} {short(value)}; expected at most {MOST_LAYERS:,}")
        check_config(value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, int | float) for each in value)
