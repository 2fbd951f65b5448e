"""Averaged weights: an exponential moving average of what is trained."""

from __future__ import annotations

import torch
from torch import Tensor


class AveragedWeights:
    """Exponential moving average of tensors that training changes in place.

    After update `t`, counted from 0: `average ← d · average + (1 - d) · value`, `d = min(decay, (1 + t) / (10 + t))`:
    the first updates forget the initial weights fast. Integer tensors (counters) are not averaged but copied.

    Args:
        tensors: name → parameter or buffer; watched, never changed but by `copy_to_model`.
        decay: 0…1; 0 keeps no average, and the last values are the result.
    """

    def __init__(self, tensors: dict[str, Tensor], decay: float) -> None:
        self.tensors = tensors
        self.decay = decay
        self.averages = {name: tensor.detach().clone() for name, tensor in tensors.items()} if decay else {}
        floating = [name for name in self.averages if tensors[name].is_floating_point()]
        self._averages = [self.averages[name] for name in floating]
        self._values = [tensors[name].detach() for name in floating]
        self._counters = [name for name in self.averages if name not in set(floating)]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take the present values in.

        Args:
            updates: how many updates came before this one.
        """
        if not self._averages:
            return
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for name in self._counters:
            self.averages[name].copy_(self.tensors[name])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the averages in the place of the present values."""
        for name, average in self.averages.items():
            self.tensors[name].copy_(average)
