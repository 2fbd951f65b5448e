"""The order in memory of the weights of trained convolutions, by the processor that trains."""

from __future__ import annotations

import torch
from torch import nn


def memory_order(device: torch.device) -> torch.memory_format:
    """The order in which a training step of WeakCLIP is the faster one on a device.

    Channels last on accelerators, whose matrix units want it, and on CPUs with AVX-512. On a CPU without, the gradients
    of weights take twice to three times as long in that order; docs/speed.md has the figures.
    """
    wide = device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.channels_last if wide else torch.contiguous_format


def set_memory_format(model: nn.Module, order: torch.memory_format) -> None:
    """Put the weights of trained convolutions into a memory order; their values stay."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)


def order_of(weight: torch.Tensor) -> torch.memory_format:
    """The memory order of a weight `(C, D, y, x)`; contiguous where it is both."""
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
