"""Inner results that the backward pass needs: kept where memory has room for them, else computed again.

Both give the same numbers bit for bit, random ones included. Computing again costs a forward pass of the part; it is
worth it where the memory would otherwise go to results that are quickly made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROOM_ON_CPU = 64 * 2**20
"""Bytes of one part's inner results that are kept on a CPU, whose memory is shared with all else that runs there."""
SHARE_OF_DEVICE = 16
"""A part keeps at most the memory of a device, where that has its own, divided by this."""


def room(device: torch.device) -> int:
    """Bytes that the inner results of one part of the model may take on a device. Does not wait for the device."""
    properties = getattr(getattr(torch, device.type, None), "get_device_properties", None)
    memory = getattr(properties(device), "total_memory", 0) if properties else 0
    return memory // SHARE_OF_DEVICE if memory else ROOM_ON_CPU


def run_part(part: Callable[..., Tensor], *inputs: Tensor, needed: int) -> Tensor:
    """`part(*inputs)`, its inner results kept only where there is room for them.

    Args:
        part: a function of the inputs, or a module.
        inputs: what gradients may flow to.
        needed: bytes that the inner results take: of this call, and of all others that belong to the same decision.
    """
    if not torch.is_grad_enabled() or needed <= room(inputs[0].device):
        return part(*inputs)
    result: Tensor = checkpoint(part, *inputs, use_reentrant=False)
    return result
