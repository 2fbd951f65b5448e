"""What `--json` prints: one object, that of an error too."""

from __future__ import annotations

import contextlib
import json as json_format
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from weakclip.errors import WeakCLIPError
from weakclip.store.untrusted_text import one_line


@contextlib.contextmanager
def errors_printed(*, json: bool) -> Iterator[None]:
    """With `json`, an error is an object on standard output before it goes on."""
    try:
        yield
    except WeakCLIPError as error:
        if json:
            print_json({"error": {"type": type(error).__name__, "message": one_line(str(error))}})
        raise


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object; of the processes that torchrun started, one does."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(json_format.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """Paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
