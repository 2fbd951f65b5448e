"""Notes where code would wait for a device: values that are read on the host, and sizes that depend on values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = ("cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__index__", "__array__")
"""Of a tensor: each brings its values to the host."""
OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero")
"""Below the surface: the same, and results whose size the values decide."""


class _Watch(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and _has_mask(args[1])
        if name in OPERATORS or by_mask:
            self.found.append(f"{name} by a mask" if by_mask else name)
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Any) -> bool:
    """Whether places are chosen by values: then their number is read."""
    return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices)


@contextlib.contextmanager
def host_reads() -> Iterator[list[str]]:
    """The reads of this thread while the context lasts, in their order; a method counts, and not what it calls."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            patch.setattr(torch.Tensor, name, _noted(name, getattr(torch.Tensor, name), found))
        with _Watch(found):
            yield found


def _noted(name: str, method: Any, found: list[str]) -> Any:
    def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(name)
        before = len(found)
        result = method(self, *args, **kwargs)
        del found[before:]
        return result

    return read
