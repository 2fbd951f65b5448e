"""Ray Data as an engine: the work on many items streams through processes of one machine or of a cluster.

Actors make what a network makes, each with a network of its own, loaded once; tasks on the cores do the rest and write
the files. Where the actors sit on accelerators, other tasks read for them; on cores they read for themselves, and no
image is passed on. Ray holds back those that are ahead, starts more of those that are short, and does again what was
lost with a process. Only numbers come back. All of them need the run's files under the same paths.

Source: `ray.data.Dataset.map_batches` with functions (tasks) and classes (actor pools), Ray 2.60.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from weakclip.errors import ConfigError, RunError, WeakCLIPError, first_line
from weakclip.store.jobs import Again, Steps, working_by
from weakclip.store.outputs import url_open
from weakclip.store.share import Share, sharing

CHUNK = 64
"""Items that a process is given at once: what a lost one costs at most, beside those that wait for it."""
TOGETHER = 8
"""Items that a reading task passes on at once."""
CPUS = 0.75
"""Cores that a process asks for, or its part of all where that is less: two cores get an actor and a task."""
BLOCK = 2**24
"""Bytes that have been made before they are passed on to be finished."""
PATIENCE = 3600.0
"""Seconds without a single result after which the work is given up: an item may end every process that takes it."""


@dataclass(frozen=True)
class _Boxed:
    """A value that Ray passes on unchanged: it would unpack lists and arrays into its tables."""

    value: Any


@dataclass(frozen=True)
class _Worker(Share):
    """The share of a Ray process: the items that it gets. Its log lines go to a file of its own."""

    name: str = ""

    @property
    def passes_on(self) -> bool:
        """True: another process finishes the items."""
        return True

    def part(self, path: Path) -> Path:
        """The file of this process's lines, named as `LineLog` finds it."""
        return path.with_name(f"{path.stem}.{self.name}-of-ray{path.suffix}")


@lru_cache(maxsize=1)
def _steps(again: _Boxed, device: str, folder: str) -> Steps[Any, Any, Any]:
    """The steps in this process, made at its first item: an error of theirs is one of the work.

    Args:
        again: a reference to what makes them, which may be large, and is fetched once.
        device: of the process.
        folder: where the command runs.
    """
    import ray

    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # as Ray limits the threads of torch
    with contextlib.suppress(OSError):  # on another machine, where absolute paths are asked for
        os.chdir(folder)
    return ray.get(again.value)(device)


def _share() -> _Worker:
    import ray

    return _Worker(name=ray.get_runtime_context().get_worker_id())


def _read(batch: dict[str, np.ndarray], again: _Boxed, folder: str) -> Iterator[dict[str, np.ndarray]]:
    """A task: reads items, a row for some of them; the first error ends it."""
    items = _items(batch)
    with sharing(_share()):
        try:
            for first in range(0, len(items), TOGETHER):
                read = [_steps(again, "cpu", folder).read(item) for item in items[first : first + TOGETHER]]
                yield {"read": _column(_Boxed(read))}
        except Exception as error:
            yield {"read": _column(_told(error))}


class _Maker:
    """An actor: makes what is to be finished, one by one, of what has been read or of items that it reads itself."""

    def __init__(self, again: _Boxed, device: str, folder: str) -> None:
        self.how = again, device, folder

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        with sharing(_share()):
            try:
                steps = _steps(*self.how)
                for made in steps.make(_opened(batch["read"])) if "read" in batch else steps.from_items(_items(batch)):
                    yield {"made": _column(_Boxed(made))}
            except Exception as error:
                yield {"made": _column(_told(error))}


def _finish(batch: dict[str, np.ndarray], again: _Boxed, folder: str) -> dict[str, np.ndarray]:
    """A task: finishes items; a row says how many, and the error that ended the work on one."""
    done, error = 0, None
    with sharing(_share()):
        for made in batch["made"]:
            try:
                if isinstance(made, Exception):
                    raise made
                _steps(again, "cpu", folder).finish(made.value)
                done += 1
            except Exception as found:
                error = error or _told(found)
    return {"done": np.array([done]), "error": _column(_Boxed(error))}


def _items(batch: dict[str, np.ndarray]) -> list[Any]:
    return [item for chunk in batch["item"] for item in chunk.value]


def _opened(rows: np.ndarray) -> Iterator[Any]:
    """The items that were read, one at a time; an error is raised when its turn has come."""
    for row in rows:
        if isinstance(row, Exception):
            raise row
        yield from row.value


def _column(value: object) -> np.ndarray:
    column = np.empty(1, dtype=object)
    column[0] = value
    return column


def _told(error: Exception) -> Exception:
    """The error as other processes can read it."""
    if isinstance(error, WeakCLIPError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}")


@contextlib.contextmanager
def on_ray(device: str) -> Iterator[None]:
    """A context in which Ray does the work that other processes can do (`work_through` with `again`).

    A cluster that `RAY_ADDRESS` names is used; otherwise one of this machine's cores and accelerators is started, which
    ends with it. Nothing is sent to Ray's makers.

    Args:
        device: of the settings; unless it is the CPU, actors that make take an accelerator each, where the cluster has
            any.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray: Ray is not installed; pip install 'weakclip[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    own = not ray.is_initialized()
    if own:
        _connect(ray)
    try:
        with working_by(partial(_stream, device)):
            yield
    finally:
        if own:
            ray.shutdown()


def _connect(ray: ModuleType) -> None:
    """Find a cluster, or start one. Ray replaces the handler of SIGTERM, which is put back here."""
    terminated, where = signal.getsignal(signal.SIGTERM), os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        advice = "RAY_ADDRESS names the cluster; one that asks for a token wants RAY_AUTH_MODE=token, too"
        raise ConfigError(f"--engine ray: {where} cannot be used ({first_line(error)}); {advice}") from None
    finally:
        with contextlib.suppress(ValueError):  # outside of the main thread
            signal.signal(signal.SIGTERM, terminated)


def _set_up(context: Any) -> None:
    """Settings of Ray Data: no output of its own, the size of blocks, and how long it waits."""
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = BLOCK
    context.execution_no_progress_timeout_s = PATIENCE
    context.max_consecutive_actor_init_deaths = 3
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _stream(device: str, items: Sequence[Any], again: Again) -> Iterator[object]:
    """Yield once for each item that is finished.

    Raises:
        WeakCLIPError, RuntimeError: what the steps raised; items that others work on may still be finished.
        RunError: Ray has given up.
        ConfigError: results for a URL, made by a cluster: each of its machines would write to a disk of its own.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    if url_open() and os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"--engine ray: {url_open()}: a cluster writes to a folder that its machines share; give that"
        )
    _set_up(DataContext.get_current())
    resources, own = ray.cluster_resources(), _Boxed(ray.put(again))
    accelerators = 0 if device == "cpu" else int(resources.get("GPU", 0))
    cores, here = resources.get("CPU", 1), os.getcwd()
    cpus = min(CPUS, int(1000 * cores / (3 if accelerators else 2)) / 1000)
    chunks = [_Boxed(list(items[first : first + CHUNK])) for first in range(0, len(items), CHUNK)]
    most = max(1, int(cores / cpus) - (2 if accelerators else 1))
    begin = max(1, min(accelerators, len(chunks), most))
    rows: Any = from_items(chunks, override_num_blocks=len(chunks))
    if accelerators:
        rows = rows.map_batches(_read, fn_args=(own, here), batch_size=1, num_cpus=cpus)
    rows = rows.map_batches(
        _Maker,
        fn_constructor_args=(own, "auto" if accelerators else "cpu", here),
        batch_size=CHUNK // TOGETHER if accelerators else 1,
        compute=ActorPoolStrategy(min_size=1, max_size=most, initial_size=begin),
        num_cpus=cpus,
        num_gpus=1 if accelerators else None,
    ).map_batches(_finish, fn_args=(own, here), batch_size=None, num_cpus=cpus)
    batches: Any = iter(rows.iter_batches(batch_size=None, prefetch_batches=0))
    try:
        with contextlib.closing(batches):
            for batch in batches:
                for done, error in zip(batch["done"], batch["error"], strict=True):
                    yield from range(int(done))
                    if error.value is not None:
                        raise error.value
    except ray.exceptions.RayError as error:
        raise RunError(
            f"--engine ray: given up ({first_line(error)}); Ray's own logs say more; the same command goes on from "
            "what is done"
        ) from None
