"""What the commands share: options, reading the configuration, and work that may be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from weakclip.config import RunConfig

Config = Annotated[str, typer.Argument(help="A YAML file, or a shipped configuration: demo, voc12, coco14, folder.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be given repeatedly.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many training steps, for a quick try.")]

Result = TypeVar("Result")

TERMINATED = 128 + signal.SIGTERM
"""The shell's exit code of a process that SIGTERM has ended."""


def load(source: str, overrides: Sequence[str] | None, limit_steps: int | None) -> RunConfig:
    """The configuration with its overrides, and its trainings cut short where that is asked for."""
    from weakclip.config import limit_training, load_config

    config = load_config(source, overrides or ())
    return config if limit_steps is None else limit_training(config, limit_steps)


def finished(work: Callable[[], Result]) -> Result:
    """Do the work under one progress bar at a time, ours; it may be interrupted."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        with _ended_by_sigterm():
            return work()
    except KeyboardInterrupt:
        typer.echo("weakclip: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    except SystemExit as stop:
        if stop.code == TERMINATED:
            typer.echo("weakclip: terminated; the same command continues", err=True)
        raise


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread alone
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    """On SIGTERM: end as on Ctrl-C, with temporary files and the lock cleared away."""
    raise SystemExit(TERMINATED)
