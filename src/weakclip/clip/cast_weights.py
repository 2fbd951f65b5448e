"""A frozen network whose weights are kept in the type that autocast would cast them to anew in every call.

Autocast keeps a cast weight for the time of a context, and only where the weight gets a gradient. Those of a frozen
encoder get none: a ViT-B/16 casts 123 million numbers for every batch. With a copy in that type the same products are
computed from the same numbers, bit for bit.
"""

from __future__ import annotations

import copy
import threading
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
_CAST = (nn.Linear, nn.Conv2d)
"""Modules whose products autocast computes in its type. All others keep their weights, as norms and embeddings do."""


def autocast_type(device: torch.device) -> torch.dtype | None:
    """The type that autocast computes products in on this device now; None where it is off."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.get_autocast_dtype(device.type) if available and torch.is_autocast_enabled(device.type) else None


def state_of(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Equal as long as the tensor lies where it lay and nothing was written to it, as torch counts it.

    Comparing values would wait for the device. Writing through `.data`, or to a tensor of inference mode, is not
    counted.
    """
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class CastWeights:
    """Keeps one copy of a frozen network with cast weights, and makes it anew when the weights change.

    Several threads may ask at once.
    """

    def __init__(self) -> None:
        self._made: tuple[tuple[object, ...], nn.Module] | None = None
        self._making = threading.Lock()

    def under_autocast(self, network: Network, device: torch.device) -> Network:
        """`network`, or under autocast on the device the one with cast weights."""
        dtype = None if torch.compiler.is_compiling() else autocast_type(device)
        return network if dtype is None else self.of(network, dtype)

    def of(self, network: Network, dtype: torch.dtype) -> Network:
        """`network`, sharing all but the weights of its linear and convolution layers, which are of `dtype`.

        Args:
            network: no parameter of it gets a gradient.
            dtype: a floating type.
        """
        weights = [
            parameter
            for module in network.modules()
            if type(module) in _CAST
            for parameter in module.parameters(recurse=False)
        ]
        state = (dtype, *map(state_of, weights))
        with self._making:
            if self._made is None or self._made[0] != state:
                self._made = None  # its memory first
                kept = [*network.parameters(), *network.buffers()]
                shared: dict[int, object] = {id(each): each for each in kept}
                shared |= {id(each): nn.Parameter(each.to(dtype), requires_grad=False) for each in weights}
                self._made = (state, copy.deepcopy(network, shared))
            found = self._made[1]
        assert isinstance(found, type(network))
        return found

    def __deepcopy__(self, memo: object) -> CastWeights:
        return CastWeights()

    def __reduce__(self) -> tuple[type[CastWeights], tuple[()]]:
        return CastWeights, ()


class KnownExponential:
    """`exp` of a tensor of one number, read from its device once and again when the tensor changes."""

    def __init__(self) -> None:
        self._known: tuple[tuple[int, int, int], float] | None = None

    def of(self, tensor: torch.Tensor) -> float:
        """The number."""
        state = state_of(tensor)
        if self._known is None or self._known[0] != state:
            self._known = state, float(tensor.exp())
        return self._known[1]
