"""Checks of arguments while the command line is read: a wrong path is told before anything heavy is imported."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from weakclip.cli.json_output import errors_printed
from weakclip.config.shipped import config_path, shipped_configs
from weakclip.datasets.image_folder import check_folder
from weakclip.errors import DataError
from weakclip.store.files import expand_home
from weakclip.store.layout import MANIFEST
from weakclip.store.paths import check_file, check_model, check_run, check_there


def _checked(check: Callable[[Any], None]) -> Callable[[typer.Context, Any], Any]:
    """A callback that checks the value of an argument, if there is one."""

    def callback(context: typer.Context, value: Any) -> Any:
        if value is not None and not context.resilient_parsing:  # which is completion in the shell
            with errors_printed(json=bool(context.params.get("json"))):
                check(value)
        return value

    return callback


def _config(source: str) -> None:
    config_path(source)


def _config_or_folder(source: str) -> None:
    if source in shipped_configs() or not Path(source).is_dir():
        config_path(source)


def _inputs(entries: Sequence[str]) -> None:
    """Images, folders, patterns, or - for standard input."""
    for entry in entries:
        path = expand_home(entry)
        if entry != "-" and not os.path.exists(path) and next(glob.iglob(str(path), recursive=True), None) is None:
            raise DataError(f"{entry}: no such file, folder or pattern")


def _report(folder: Path) -> None:
    check_run(folder, MANIFEST)


is_config = _checked(_config)
is_config_or_folder = _checked(_config_or_folder)
is_file = _checked(check_file)
are_inputs = _checked(_inputs)
is_folder = _checked(check_folder)
is_model = _checked(check_model)
is_reported_run = _checked(_report)
is_run = _checked(check_run)
is_there = _checked(check_there)
