"""The processes of a run: one, or those that `torchrun` started."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process and its companions.

    Args:
        rank: number of this process; process 0 writes files and shows progress.
        count: how many there are.
        device: the device of this process.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` on this process's device; with companions, wrapped so that gradients are averaged over all."""
        model.to(self.device)
        if self.count == 1:
            return model
        if self.device.type == "cpu":
            return DistributedDataParallel(model)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[self.device.index])

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process. Every process must ask."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(flags)
        return bool(flags > 0)

    def gather(self, names: list[str]) -> list[str]:
        """The names of all processes, one process after the other. Every process must ask."""
        if self.count == 1:
            return names
        found: list[list[str]] = [[]] * self.count
        distributed.all_gather_object(found, names)
        return [name for part in found for name in part]

    @torch.no_grad()
    def average_statistics(self, statistics: Sequence[Tensor]) -> None:
        """Give the statistics of batch norms their mean over all processes. Every process must ask.

        Args:
            statistics: floating-point buffers, changed in place. On an accelerator they are equal already: there the
                batch norms are synchronised (`wrap`), for which torch has no form on CPUs.
        """
        if self.count == 1 or not statistics or self.device.type != "cpu":
            return
        flat = torch.cat([each.flatten() for each in statistics])
        distributed.all_reduce(flat)
        parts = (flat / self.count).split([each.numel() for each in statistics])
        for each, part in zip(statistics, parts, strict=True):
            each.copy_(part.view_as(each))

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            distributed.barrier()


def open_processes(device: str | torch.device) -> Processes:
    """The processes of this run: those that `torchrun` started join one group, each on a device of its own.

    Args:
        device: where a single process runs; of several, only the kind counts. Process n of a machine takes its
            accelerator n.
    """
    asked = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, asked)
    own = asked if asked.type == "cpu" else torch.device(asked.type, int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():
        if own.type != "cpu":
            torch.accelerator.set_device_index(own.index)
        distributed.init_process_group(distributed.get_default_backend_for_device(own))
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size(), own)


def write_once(write: Callable[[], object], device: str | torch.device) -> None:
    """Write a result in process 0; its companions return when it is written.

    Args:
        write: writes files, and does nothing that the companions need in memory.
        device: as for `open_processes`.
    """
    processes = open_processes(device)
    if processes.is_main:
        write()
    processes.wait()
