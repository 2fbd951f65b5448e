"""What the commands share: options, reading the configuration, and work that may be interrupted."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from weakclip.config import RunConfig
    from weakclip.report.chosen import Network

SHIPPED = Path(__file__).parents[1] / "configs"


def _shipped_names(incomplete: str) -> list[str]:
    """For completion in the shell: names of shipped configurations; the shell itself adds files."""
    return [name for name in sorted(path.stem for path in SHIPPED.glob("*.yaml")) if name.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    """For completion in the shell: `KEY=` for every key of the shipped configurations, read without the package."""
    import yaml

    def leaves(value: object, prefix: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, part in value.items():
                yield from leaves(part, f"{prefix}.{name}" if prefix else str(name))
        else:
            yield f"{prefix}="

    found = {key for path in SHIPPED.glob("*.yaml") for key in leaves(yaml.safe_load(path.read_text("utf-8")), "")}
    return sorted(key for key in found if key.startswith(incomplete))


Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or a shipped configuration: demo, voc12, coco14, folder.", autocompletion=_shipped_names
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; may be given repeatedly.", autocompletion=_keys
    ),
]


class NetworkName(StrEnum):
    """The networks of a run, as `weakclip.report.chosen.Network`."""

    WEAKCLIP = "weakclip"
    RETRAINED = "retrained"


NetworkOption = Annotated[
    NetworkName | None,
    typer.Option("--network", help="Of a run folder, another network than the one that its evaluation chose."),
]
OwnEncoder = Annotated[
    str, typer.Option("--clip", help="The encoder of a WeakCLIP whose own is no CLIP: python:MODULE:FUNCTION.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many training steps, for a quick try.")]

Result = TypeVar("Result")

TERMINATED = 128 + signal.SIGTERM
"""The shell's exit code of a process that SIGTERM has ended."""


def named(network: NetworkName | None) -> Network | None:
    """The plain value of `--network`."""
    return None if network is None else network.value


def load(source: str, overrides: Sequence[str] | None, limit_steps: int | None) -> RunConfig:
    """The configuration with its overrides, and its trainings cut short where that is asked for."""
    from weakclip.config import limit_training, load_config

    config = load_config(source, overrides or ())
    return config if limit_steps is None else limit_training(config, limit_steps)


def load_data(source: str, overrides: Sequence[str] | None) -> RunConfig:
    """As `load`; a folder of images stands for the configuration `folder` with that root and its own splits."""
    from weakclip.config import shipped_configs

    if source in shipped_configs() or not Path(source).is_dir():
        return load(source, overrides, None)
    from weakclip.datasets import FolderDataset

    val = "val" if "val" in FolderDataset.splits(source) else "null"
    return load("folder", [f"data.root={json.dumps(source)}", f"data.val_split={val}", *(overrides or ())], None)


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
    except EOFError as error:  # typer would take it for the end of its own input, and say "Aborted." and no more
        raise RuntimeError("an end of file that nothing was prepared for") from error
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
