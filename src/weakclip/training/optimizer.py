"""The optimiser that the settings of a training name."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import nn

from weakclip.training.settings import TrainSettings

logger = logging.getLogger("weakclip")

FACTOR = "rate_factor"
"""In a group of the optimiser: the factor on its learning rate."""


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser, its parameters in groups of one weight decay and one factor on the learning rate.

    Biases, norms and temperatures do not decay. A factor that fits no name is told in the log.
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
