"""The processes of a run: one, or those that torch's launcher started (`--devices`, `torchrun`)."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from weakclip.store.share import Share, Value
from weakclip.store.threads import usable_cores
from weakclip.training.batch_norm import share_batch_norms

PATIENCE = timedelta(days=7)
"""How long processes wait for one that works without them. The launcher ends them when one dies, not a time limit."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes(Share):
    """This process and its companions, which share the items of a stage and the batches of a training.

    Args:
        rank: number of this process; process 0 writes files and shows progress.
        count: how many there are.
        device: the device of this process.
    """

    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` on this process's device; with companions, wrapped so that gradients are averaged over all, and its
        batch norms take the whole batch."""
        model.to(self.device)
        if self.count == 1:
            return model
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            share_batch_norms(model)
        else:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch 2.13, whose new name is not known to older ones
            return DistributedDataParallel(
                model,
                device_ids=None if on_cpu else [self.device.index],
                broadcast_buffers=False,  # those of shared batch norms are the same in all processes
                gradient_as_bucket_view=True,  # no copies of what is sent
            )

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process. Every process must ask."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(flags)
        return bool(flags > 0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a floating-point tensor over the processes. Every process must ask."""
        if self.count == 1:
            return values
        distributed.all_reduce(values)
        return values / self.count

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array of integers over the processes, exact. Every process must ask."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(total)
        return total.numpy()

    def tell(self, value: Value) -> Value:
        """The value that process 0 has. Every process must ask."""
        if self.count == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told)
        return told[0]

    def gather(self, names: list[str]) -> list[str]:
        """The names of all processes, one process after the other. Every process must ask."""
        if self.count == 1:
            return names
        found: list[list[str]] = [[]] * self.count
        distributed.all_gather_object(found, names)
        return [name for part in found for name in part]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            distributed.all_reduce(torch.zeros(()))  # on the CPU: an accelerator would be kept busy waiting


def open_processes(device: str | torch.device) -> Processes:
    """The processes of this run: those that torch's launcher started join one group, each on a device of its own.

    Process 0 speaks: the others log errors only.

    Args:
        device: where a single process runs; of several, only the kind counts. Process n of a machine takes its
            accelerator n.
    """
    asked = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, asked)
    own = asked if asked.type == "cpu" else torch.device(asked.type, int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():
        _join(own)
    return Processes(distributed.get_rank(), distributed.get_world_size(), own)


def _join(device: torch.device) -> None:
    backend = "gloo"
    if device.type == "cpu":
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(usable_cores())
    else:
        torch.accelerator.set_device_index(device.index)
        backend = f"cpu:gloo,{device.type}:{distributed.get_default_backend_for_device(device)}"
    with _ended_at_once():
        distributed.init_process_group(backend, timeout=PATIENCE)
    atexit.register(leave)
    if distributed.get_rank():
        logging.getLogger("weakclip").setLevel(logging.ERROR)


def leave() -> None:
    """Leave the group of processes, if this one is in any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def _ended_at_once() -> Iterator[None]:
    """Within it SIGTERM ends the process: a handler in Python would not run while torch waits for a companion."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def write_once(write: Callable[[], object], device: str | torch.device) -> None:
    """Write a result in process 0; its companions return when it is written.

    Args:
        write: writes files, and does nothing that the companions need in memory.
        device: as for `open_processes`.
    """
    open_processes(device).once(write)
