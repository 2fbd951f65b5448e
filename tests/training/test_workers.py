"""Laws of data workers: one that dies is one line, whatever shows of it first; what a data set raises is no death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from weakclip.errors import DataError, RunError
from weakclip.store.threads import usable_cores
from weakclip.training import loading
from weakclip.training.loop import fit
from weakclip.training.processes import open_processes
from weakclip.training.settings import TrainSettings

SETTINGS = TrainSettings(steps=9, batch_size=2, learning_rate=0.02, warmup_steps=1, checkpoint_every=2, workers=2)


class Noise:
    """Seven images of noise made from the item's own seed."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return {"image": torch.from_numpy(np.random.default_rng(key[1]).normal(size=4).astype(np.float32))}


def broken(error: BaseException) -> None:
    raise error


class BrokenOnArrivalError(DataError):
    """Reading it from the connection raises an error, as where its sender has gone."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("never read")
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return broken, (self.error,)


class Dies(Noise):
    """At one item the connection breaks, and the process lives on for a moment, as on a busy machine."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: tuple[int, int]) -> Any:
        if key[0] != 3:
            return super().__getitem__(key)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        raise BrokenOnArrivalError(self.error)


class Raises(Noise):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: tuple[int, int]) -> Any:
        raise self.error


def loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {"loss": model(batch["image"]).square().mean()}


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """A worker that lived on would be waited for in vain when the program ends."""
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def make_model() -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(4, 1)

    return make


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(104, "Connection reset by peer"),
        ConnectionRefusedError(111, "Connection refused"),
        BrokenPipeError(32, "Broken pipe"),
        FileNotFoundError(2, "No such file or directory"),
        OSError("got end of file during message"),
        RuntimeError("received 0 items of ancdata"),
    ],
    ids=repr,
)
def test_death_is_one_line_though_its_connection_breaks_first(
    error: BaseException, make_model: Callable[[], nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"^a process that loads data has died \(.*-9\); .* goes on") as caught:
        fit(make_model(), Dies(error), loss, SETTINGS, tmp_path / "run")
    assert "\n" not in str(caught.value)
    resumed, undisturbed = make_model(), make_model()
    fit(resumed, Noise(), loss, SETTINGS, tmp_path / "run")
    fit(undisturbed, Noise(), loss, SETTINGS, tmp_path / "whole")
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.fixture
def iterators(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Of all loaders, the iterators that have workers, for as long as anything else holds them."""
    made, begin = list[weakref.ref[Any]](), DataLoader.__iter__

    def noted(loader: DataLoader[Any]) -> Any:
        iterator = begin(loader)
        made.append(weakref.ref(iterator))
        return iterator

    monkeypatch.setattr(DataLoader, "__iter__", noted)
    return made


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (Dies(EOFError()), RunError),
        (Raises(RuntimeError("its own")), RuntimeError),
        (Raises(KeyError("its own")), KeyError),
        (Raises(DataError("its own")), DataError),
    ],
    ids=["dies", "raises", "raises another", "says what is wrong"],
)
def test_an_error_that_is_kept_keeps_no_worker(
    data: Noise, kind: type[BaseException], iterators: list[weakref.ref[Any]], tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        fit(nn.Linear(4, 1), data, loss, SETTINGS, tmp_path)
    assert len(iterators) == 1 and iterators[0]() is None and caught.value
    assert multiprocessing.active_children() == []
    assert len(list(DataLoader(range(3), num_workers=1))) == 3  # type: ignore[arg-type]  # torch mourns nobody


def test_batches_that_nobody_wants_keep_no_worker(iterators: list[weakref.ref[Any]]) -> None:
    batches = loading.load_batches(Noise(), SETTINGS, open_processes("cpu"), start=0, seed=0)
    next(batches)
    assert len(multiprocessing.active_children()) == min(2, usable_cores()) and iterators[0]() is not None
    batches.close()
    assert multiprocessing.active_children() == [] and iterators[0]() is None


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [RuntimeError, EOFError, OSError])
def test_what_a_data_set_raises_is_no_death(
    kind: type[Exception],
    workers: int,
    make_model: Callable[[], nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "DYING_SECONDS", 0.1)
    settings = TrainSettings(steps=2, batch_size=2, workers=workers, warmup_steps=1)
    with pytest.raises(kind, match="its own"):
        fit(make_model(), Raises(kind("its own")), loss, settings, tmp_path)


@pytest.fixture
def torch_listens(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch's handler of SIGCHLD, as any other loader of the process leaves it."""
    before = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    assert len(list(DataLoader(range(3), num_workers=1))) == 3  # type: ignore[arg-type]
    handler = signal.getsignal(signal.SIGCHLD)
    assert callable(handler)
    yield handler
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")], ids=repr)
def test_death_is_one_line_beside_another_loader(
    error: BaseException, torch_listens: Any, make_model: Callable[[], nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="a process that loads data has died"):
        fit(make_model(), Dies(error), loss, SETTINGS, tmp_path)
    assert signal.getsignal(signal.SIGCHLD) is torch_listens


def test_death_during_a_step_is_told_when_the_step_is_done(
    torch_listens: Any, make_model: Callable[[], nn.Module], tmp_path: Path
) -> None:
    done = []

    def killing(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        for worker in multiprocessing.active_children():
            worker.kill()
            os.waitid(os.P_PID, int(worker.pid or 0), os.WEXITED | os.WNOWAIT)  # dead, and nobody has taken note
        done.append(batch)
        return loss(model, batch)

    with pytest.raises(RunError, match="a process that loads data has died"):
        fit(make_model(), Noise(), killing, SETTINGS, tmp_path)
    assert done


def test_a_handler_of_the_user_s_own_stays(make_model: Callable[[], nn.Module], tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
    try:
        fit(make_model(), Noise(), loss, SETTINGS, tmp_path)
        assert heard
        heard.clear()
        signal.raise_signal(signal.SIGCHLD)
        assert heard == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_worker_that_dies_before_its_first_batch_is_told_too(
    make_model: Callable[[], nn.Module], tmp_path: Path
) -> None:
    class DiesAtOnce(Noise):
        def __getitem__(self, key: tuple[int, int]) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match="a process that loads data has died"):
        fit(make_model(), DiesAtOnce(), loss, SETTINGS, tmp_path)
