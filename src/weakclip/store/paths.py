"""Checks of the paths that a command is given, before anything heavy is imported."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weakclip.errors import DataError, RunError, WeightsError
from weakclip.store.files import expand_home, refuse_url, writing
from weakclip.store.layout import CONFIG


def path_given(value: Any, name: str) -> Any:
    """A value of the command line; of a path, `~` is the home, and what was a URL is refused.

    Args:
        value: the value.
        name: of its option, with dashes, or of its argument.

    Raises:
        ConfigError: a URL, of which `Path` has kept one slash.
    """
    if not isinstance(value, Path):
        return value
    refuse_url(value, name if name.startswith("-") else name.upper())
    return expand_home(value)


def check_run(folder: Path | str, file: str = CONFIG) -> None:
    """Raise a `RunError` unless the folder is that of a run.

    Args:
        folder: the folder.
        file: the file that must be in it.
    """
    if not (expand_home(folder) / file).is_file():
        raise RunError(f"{folder}: not a run folder (no {file}); give the folder of `weakclip run --out`")


def check_model(source: Path | str) -> None:
    """Raise a `WeightsError` unless there is something at the path of a network."""
    if not expand_home(source).exists():
        raise WeightsError(
            f"{source}: no such file or folder; expected a run, a folder of a network, or a released WeakCLIP .pth"
        )


def check_file(path: Path | str) -> None:
    """Raise a `DataError` unless there is such a file."""
    if not Path(path).is_file():
        found = "is a folder; expected a file" if Path(path).is_dir() else "no such file"
        raise DataError(f"{path}: {found}; correct the path")


def check_there(path: Path | str) -> None:
    """Raise a `DataError` unless there is a file or folder."""
    if not Path(path).exists():
        raise DataError(f"{path}: no such file or folder; correct the path")


def check_inputs(entries: Sequence[str]) -> None:
    """Raise a `DataError` unless each entry is a file, a folder, a pattern of some, or - for standard input."""
    for entry in entries:
        path = expand_home(entry)
        if entry != "-" and not os.path.exists(path) and next(glob.iglob(str(path), recursive=True), None) is None:
            raise DataError(f"{entry}: no such file, folder or pattern")


def check_target(path: Path | str) -> None:
    """Whether a file can be written; for before the long work whose result it is to hold. Nothing is left of it.

    Raises:
        ConfigError, StorageError: as `writing`; or a folder in its place.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
