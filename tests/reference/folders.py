"""What lies in a folder, to be compared with what lies in another or lay there before."""

from __future__ import annotations

import os
from pathlib import Path


def bytes_in(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    """Path below the folder → content, of every file that the pattern finds."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def times_in(run: Path) -> dict[str, int]:
    """The same of the results of a run's stages → time of the last change."""
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in run.glob("[1-5]_*/**/*.*")}


def dead_process() -> int:
    """The number of a process that has ended: whoever has left its name in a folder."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child
