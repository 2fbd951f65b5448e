"""What the tests of hostile files share: an object whose pickle runs a command, and what a refusal is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from weakclip.errors import WeakCLIPError


class Harm:
    """Unpickled in the ordinary way, it runs a command of the shell.

    Args:
        marker: the file that the command makes.
    """

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def is_one_clear_line(error: BaseException, file: Path) -> bool:
    """Whether an error is the package's own, on one line, and names the file."""
    said = str(error)
    return isinstance(error, WeakCLIPError) and "\n" not in said and str(file) in said and len(said) < 1000
