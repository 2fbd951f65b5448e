"""Starts several processes on this machine through torch's launcher, and says in one line why they ended.

`torchrun` does the same from outside, on one machine or several; `open_processes` finds the companions in either case.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from weakclip.errors import ConfigError, RunError, WeakCLIPError, first_line
from weakclip.store.threads import usable_cores
from weakclip.training.processes import leave

Result = TypeVar("Result")

ALL = "all"
CORES = 2
"""Cores of a process, where `all` shares those of a machine without accelerators."""
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""A server imports the package once and forks all processes: no thread of this process is in their way."""
FORMING, POLLED_EVERY = 60, 0.1
"""Seconds: until the processes must have found each other, and from look to look whether one has died."""
GRACE = 3.0
"""Seconds that a process which has lost another one waits to be ended: the launcher tells of the first death only."""
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
TAKEN = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "socket timeout")


def count_processes(asked: str, device: str) -> int:
    """How many processes `--devices` asks for.

    Args:
        asked: a number from 1 on, or `all`: the accelerators of this machine; without one, half of its cores.
        device: of the run, in torch's words.

    Raises:
        ConfigError: something else, more than there are accelerators, or processes that `torchrun` has started already.

    >>> count_processes("3", "cpu")
    3
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("--devices: torchrun has started the processes already; leave --devices out")
    if asked != ALL and not (asked.isdecimal() and int(asked)):
        raise ConfigError(f"--devices: a number from 1 on, or {ALL}, expected; found {asked!r}")
    if torch.device(device).type == "cpu":
        return max(1, usable_cores() // CORES) if asked == ALL else int(asked)
    there = torch.accelerator.device_count()
    if asked != ALL and int(asked) > there:
        raise ConfigError(f"--devices: {asked} asked for, but this machine has {there}; give at most that, or {ALL}")
    return there if asked == ALL else int(asked)


def launch(work: Callable[[], Result], count: int, *, preload: str) -> Result:
    """Do the same work in several processes of this machine, which find each other by `open_processes`.

    Args:
        work: can be pickled, as its result can.
        count: how many processes.
        preload: the module whose import they have in common.

    Returns:
        What the work returned in process 0.

    Raises:
        WeakCLIPError: what ended the process that failed first, or a `RunError` that says how it died; the others are
            ended.
        KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, when the processes have ended.
        RuntimeError: any other error of a process, with its traceback.
    """
    multiprocessing.set_forkserver_preload([preload])
    with tempfile.TemporaryDirectory(prefix="weakclip-") as folder, _signals_kept(), _silent_launcher():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            rdzv_configs={"timeout": FORMING},
            max_restarts=0,
            monitor_interval=POLLED_EVERY,
            start_method=START_METHOD,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            results = elastic_launch(config, _take_part)(work)
        except SignalException as stop:
            raise _stopped(stop.sigval) from None
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            raise _error_of(rank, count, failure) from None
    result: Result = results[0]
    return result


def _take_part(work: Callable[[], Result]) -> Result:
    """In each process: the work; an error reaches the launcher by the file that torch writes it to."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the launcher only, which passes it on once
    logging.disable(logging.NOTSET)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(usable_cores()))
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = work()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None  # torch would take it for an end without an error
    except Exception as error:
        if not _is_loss(error):
            raise
        time.sleep(GRACE)
        raise RunError(
            f"another process of the run cannot be reached ({first_line(error)}); the same command goes on"
        ) from None
    leave()
    return result


def _is_loss(error: Exception) -> bool:
    """Whether an error comes of the death of another process."""
    if isinstance(error, WeakCLIPError) or not isinstance(error, RuntimeError):
        return False
    said = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in said for word in _LOST)


def _error_of(rank: int, count: int, failure: ProcessFailure) -> BaseException:
    """The error or signal that ended the process that failed first."""
    if failure.exitcode in (INTERRUPTED, TERMINATED):
        return _stopped(signal.Signals(failure.exitcode - 128))
    if Path(failure.error_file).is_file():
        told = failure.error_file_data["message"]
        name, _, said = told["message"].partition(": ")
        kind = _kinds(WeakCLIPError).get(name)
        return kind(said) if kind else RuntimeError(f"process {rank} of {count}:\n{told['extraInfo']['py_callstack']}")
    end = f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    return RunError(
        f"process {rank} of {count} (number {failure.pid}) has died ({end}), and the others were ended; where memory "
        "is short, take fewer --devices; the same command goes on from what is done"
    )


def _kinds(base: type[WeakCLIPError]) -> dict[str, type[WeakCLIPError]]:
    """The package's own errors by their names."""
    found = {base.__name__: base}
    for each in base.__subclasses__():
        found |= _kinds(each)
    return found


def _stopped(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """The launcher takes signals for itself, and gives none back."""
    names = TAKEN if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _silent_launcher() -> Iterator[None]:
    """The launcher reports on every process that it ends; here one error is told."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
