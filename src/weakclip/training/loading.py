"""From a data set that is asked with `(index, rng_seed)` to batches, with any number of worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset, default_collate

from weakclip.errors import RunError, WeakCLIPError
from weakclip.training.interrupt import ignore_stop_signals
from weakclip.training.order import StepBatches
from weakclip.training.processes import Processes
from weakclip.training.sampling import Repeats
from weakclip.training.settings import TrainSettings

Batch = dict[str, Any]
"""Names of the parts of a batch → stacked tensors, or lists of strings."""


class TrainingData(Protocol):
    """A data set asked with `(index, rng_seed)`: everything random about an item comes from `rng_seed`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Batch: ...


class _GuardedData(Dataset[Any]):
    """Hands the package's own errors over as items, so that they leave a worker process as they are."""

    def __init__(self, dataset: TrainingData) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Batch | WeakCLIPError:
        try:
            return self.dataset[key]
        except WeakCLIPError as error:
            return error


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, WeakCLIPError):
            return item
    return default_collate(items)


def load_batches(
    dataset: TrainingData,
    settings: TrainSettings,
    processes: Processes,
    *,
    start: int,
    seed: int,
    repeats: Repeats | None = None,
) -> Generator[Any, None, None]:
    """Batches of the steps from `start` on; an error of the package comes as an item in the place of its batch.

    Args:
        dataset: asked with `(index, rng_seed)`.
        settings: number of steps, batch size and workers.
        processes: this process takes its share of each batch.
        start: the first step, counted from 0.
        seed: of order and augmentation.
        repeats: how often each item comes in an epoch; None for once.
    """
    batches = StepBatches(
        length=len(dataset),
        batch_size=settings.batch_size,
        start=start,
        steps=settings.steps,
        seed=seed,
        rank=processes.rank,
        processes=processes.count,
        repeats=repeats,
    )
    loader = DataLoader(
        _GuardedData(dataset),
        batch_sampler=batches,
        num_workers=min(settings.workers, os.cpu_count() or 1),  # more would only slow each other down
        collate_fn=_collate,
        worker_init_fn=ignore_stop_signals,
        pin_memory=processes.device.type != "cpu",
    )
    yield from _started(loader)  # a generator: closing it ends the workers, which no signal does


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches. torch would raise an error about a dead worker from a signal, at any line of the main
    thread and after the training too; without that it raises it where the next batch is waited for."""
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    return batches


@contextlib.contextmanager
def dead_workers_in_words(workers: int) -> Iterator[None]:
    """A `RunError` where torch says that a data worker has died."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a process that loads data has died ({str(error).splitlines()[0]}); where memory or /dev/shm is short, "
            f"lower workers ({workers}); the same command goes on from the last checkpoint"
        ) from None
