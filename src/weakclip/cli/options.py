"""Options that several commands have, what they are read into, and work that may be interrupted."""

from __future__ import annotations

import ast
import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from weakclip.cli.checks import is_config
from weakclip.config.shipped import shipped_configs

if TYPE_CHECKING:
    from weakclip.clip import Encoder
    from weakclip.config import RunConfig
    from weakclip.report import chosen

PACKAGE = Path(__file__).parents[1]


def _shipped_names(incomplete: str) -> list[str]:
    """Completion in the shell: names of shipped configurations; the shell itself adds files."""
    return sorted(path.stem for path in PACKAGE.glob("configs/*.yaml") if path.stem.startswith(incomplete))


def _keys(incomplete: str) -> list[str]:
    """Completion in the shell: `KEY=` for every key that a configuration of any kind can have."""
    keys = {f"{key}=" for key in _keys_of("weakclip.config.sections", "RunConfig", "")}
    return sorted(key for key in keys if key.startswith(incomplete))


def _keys_of(module: str, name: str, prefix: str) -> Iterator[str]:
    """The keys of a class of settings, read from its source: importing it would import torch."""
    for node in _statements(module):
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            yield from _keys_of(str(node.module), name, prefix)
        elif isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):  # `AnyData = ScenesData | …`
            for kind in _names_in(node.value):
                yield from _keys_of(module, kind, prefix)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                yield from _keys_of(module, ast.unparse(base), prefix)
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    key, kinds = prefix + ast.unparse(field.target), _names_in(field.annotation)
                    items = "tuple" in kinds  # a list is one value
                    below = [] if items else [each for kind in kinds for each in _keys_of(module, kind, f"{key}.")]
                    optional = any(isinstance(part, ast.Constant) for part in ast.walk(field.annotation))
                    yield from below
                    if optional or not below:
                        yield key


@cache
def _statements(module: str) -> list[ast.AST]:
    """Imports, assignments and classes of a module of the package, also below `if TYPE_CHECKING`; else none."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    nodes = ast.walk(ast.parse(found[0].read_bytes())) if found and module.startswith("weakclip.") else ()
    return [node for node in nodes if isinstance(node, ast.ImportFrom | ast.Assign | ast.ClassDef)]


def _names_in(annotation: ast.expr) -> list[str]:
    return [part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)]


class NetworkName(StrEnum):
    """The networks of a run, as `weakclip.report.chosen.Network`."""

    WEAKCLIP = "weakclip"
    RETRAINED = "retrained"


Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or a shipped configuration: demo, folder, voc12, coco14, voc12_paper, coco14_paper.",
        autocompletion=_shipped_names,
        callback=is_config,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; may be given repeatedly.", autocompletion=_keys
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this number of training steps, for a quick try.")]
Json = Annotated[
    bool, typer.Option("--json", is_eager=True, help="One JSON object on standard output, and nothing else there.")
]
Network = Annotated[
    NetworkName | None,
    typer.Option("--network", help="Of a run folder, another network than the one that its evaluation chose."),
]
OwnEncoder = Annotated[
    str, typer.Option("--clip", help="The encoder of a WeakCLIP whose own is no CLIP: python:MODULE:FUNCTION.")
]

Result = TypeVar("Result")

TERMINATED = 128 + signal.SIGTERM
"""The shell's exit code of a process that SIGTERM has ended."""


def named(network: NetworkName | None) -> chosen.Network | None:
    """The plain value of `--network`."""
    return None if network is None else network.value


def encoder_of(clip: str) -> Encoder | None:
    """The encoder that `--clip` names."""
    from weakclip.clip import load_encoder

    return load_encoder(clip) if clip else None


def load(source: str, overrides: Sequence[str] | None, limit_steps: int | None = None) -> RunConfig:
    """The configuration with its overrides, and its trainings cut short where that is asked for."""
    from weakclip.config import limit_training, load_config

    config = load_config(source, overrides or ())
    return config if limit_steps is None else limit_training(config, limit_steps)


def load_data(source: str, overrides: Sequence[str] | None) -> RunConfig:
    """As `load`; a folder of images stands for the configuration `folder` with that root and its own splits."""
    if source in shipped_configs() or not Path(source).is_dir():
        return load(source, overrides)
    from weakclip.datasets import FolderDataset

    val = "val" if "val" in FolderDataset.splits(source) else "null"
    return load("folder", [f"data.root={json.dumps(source)}", f"data.val_split={val}", *(overrides or ())])


def finished(work: Callable[[], Result]) -> Result:
    """Do the work; Ctrl-C and SIGTERM end it in order, with one line."""
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
        yield  # Python allows signal handlers in the main thread only
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    """On SIGTERM: end as on Ctrl-C, with temporary files and the lock cleared away."""
    raise SystemExit(TERMINATED)
