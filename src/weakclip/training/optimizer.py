"""The optimiser that the settings of a training name, and the numeric type of its forward passes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from weakclip.training.settings import TrainSettings

logger = logging.getLogger("weakclip")

FACTOR = "rate_factor"
"""In a group of the optimiser: the factor on its learning rate."""


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser, its parameters in groups of one weight decay and one factor on the learning rate.

    Biases, norms and temperatures do not decay. A factor that fits no name is told in the log.

    Args:
        parameters: by their names.
        settings: optimiser, rates and decay.
    """
    for entry in settings.rate_factors:
        if not any(entry.part in name for name in parameters):
            logger.warning("rate_factors: no parameter of this network has %r in its name", entry.part)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        factor = math.prod(entry.factor for entry in settings.rate_factors if entry.part in name)
        groups.setdefault((decay, factor), []).append(parameter)
    listed = [
        {"params": members, "weight_decay": decay, FACTOR: factor, "lr": settings.learning_rate * factor}
        for (decay, factor), members in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(listed, lr=settings.learning_rate, fused=True)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that `precision` asks for on a device; None for float32 throughout."""
    wanted = precision == "bf16" or (precision == "auto" and _bf16_pays(device))
    return torch.bfloat16 if wanted else None


def _bf16_pays(device: torch.device) -> bool:
    """On GPUs; on CPUs with tile instructions (AMX), where a step of WeakCLIP took 0.6 to 0.7 of the time in fp32."""
    if device.type != "cpu":
        return True
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch
    return bool(capabilities.get("amx_bf16", False))
