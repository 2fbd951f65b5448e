"""Steps whose loss or gradient is not finite: they change nothing and are counted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class NonFiniteGuard:
    """Undoes what a bad step did to the buffers (batch-norm statistics), and counts.

    Args:
        tensors: what training changes; of these, the buffers are kept from before each step.

    Attributes:
        total: how many steps were bad so far.
        in_a_row: how many of them came without a good one in between, up to now.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._buffers = [tensor for tensor in tensors if not tensor.requires_grad]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self.total = 0
        self.in_a_row = 0

    def before_step(self) -> None:
        """Keep the buffers as they are."""
        _copy(self._kept, self._buffers)

    def good(self) -> None:
        """The step was a good one."""
        self.in_a_row = 0

    def bad(self) -> None:
        """The step was a bad one: put the buffers back."""
        _copy(self._buffers, self._kept)
        self.total += 1
        self.in_a_row += 1

    def tensors(self) -> dict[str, Tensor]:
        """The counts, for the checkpoint."""
        return {"total": torch.tensor(self.total), "in_a_row": torch.tensor(self.in_a_row)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a checkpoint; one from before there were counts has none."""
        self.total, self.in_a_row = (int(tensors.get(name, 0)) for name in ("total", "in_a_row"))


@torch.no_grad()
def _copy(target: list[Tensor], source: list[Tensor]) -> None:
    if target:
        torch._foreach_copy_(target, source)
