"""From a data set that is asked with `(index, rng_seed)` to batches, with any number of worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset, default_collate

from weakclip.errors import RunError, WeakCLIPError, first_line
from weakclip.store.threads import usable_cores
from weakclip.training.interrupt import ignore_stop_signals
from weakclip.training.processes import Processes
from weakclip.training.sampler import StepBatches
from weakclip.training.sampling import Repeats
from weakclip.training.settings import TrainSettings

Batch = dict[str, Any]
"""Names of the parts of a batch → stacked tensors, or lists of strings."""

DYING_SECONDS = 5.0
"""How long a data worker may take to end after its connections have closed."""


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

    Raises:
        RunError: a data worker has died.
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
        num_workers=min(settings.workers, usable_cores()),  # more would only slow each other down
        collate_fn=_collate,
        worker_init_fn=ignore_stop_signals,
        pin_memory=processes.device.type != "cpu",
    )
    yield from _from_living_workers(loader)


def _from_living_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, and a `RunError` where one of its workers dies; no worker outlives this generator."""
    others, batches = multiprocessing.active_children(), None
    workers: list[BaseProcess] = []
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    try:
        with _deaths_in_words(workers, loader.num_workers):
            batches = iter(loader)
            _on_child(signal.SIG_DFL if getattr(handler, "__module__", "").startswith("torch.") else handler)
            workers += _new_children(others)
        while True:
            with _deaths_in_words(workers, loader.num_workers):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
    finally:
        batches = None  # the last that is known of it: with it, torch ends its workers and forgets them
        for worker in workers or _new_children(others):  # no other signal ends one that hangs
            worker.kill()
            worker.join()
        _on_child(handler)


def _on_child(handler: Any) -> None:
    """Set the handler of SIGCHLD. torch's own, which any other loader of the process may have left, raises an error
    about a dead worker at any line of the main thread; without it the error comes where the next batch is waited for.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)


def _new_children(others: Sequence[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


@contextlib.contextmanager
def _deaths_in_words(workers: Sequence[BaseProcess], count: int) -> Iterator[None]:
    """A `RunError` where torch says that a data worker has died, and where its broken connection shows it first.

    The frames that an error comes from are emptied, for torch's hold the iterator, and while one is held its workers
    live, or every other loader reports their death.

    A process closes its connections before the system counts it as dead. Between the two, torch passes on what reading
    from the connection has raised: an end of file, a reset, or its own error about what is missing.
    """
    try:
        yield
    except BaseException as error:
        _empty_frames(error)
        if not isinstance(error, EOFError | OSError | RuntimeError):
            raise
        found = first_line(error) if str(error).startswith("DataLoader worker (pid") else _death(workers)
        if not found:
            raise
        raise RunError(
            f"a process that loads data has died ({found}); where memory or /dev/shm is short, "
            f"lower workers ({count}); the same command goes on from the last checkpoint"
        ) from None


def _empty_frames(error: BaseException | None) -> None:
    """Let go what the frames of an error hold, and those of the errors that led to it; frames at work are left."""
    met = set[int]()
    while error is not None and id(error) not in met:  # an error may be its own cause
        met.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _death(workers: Sequence[BaseProcess]) -> str:
    """Wait for workers that are about to die, and say which one has; nothing where all live on."""
    ending = wait([worker.sentinel for worker in workers], timeout=DYING_SECONDS) if workers else ()
    for worker in workers:
        if worker.sentinel in ending:
            worker.join()
            return f"process {worker.pid}, exit code {worker.exitcode}"
    return ""
