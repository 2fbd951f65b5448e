"""A place for files that are made from one large file, so that it is read once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from weakclip.store.files import expand_home, remove_leftovers
from weakclip.store.trees import AnyPath, stamp_of

FOLDER = "weakclip_cache"


class FileCache:
    """Files made from a source file; they count only as long as that file keeps its size and time.

    They lie in `weakclip_cache` below the data set's root, where all its users find them; where that cannot be
    written, or is at a URL, in the user's own cache folder (`$XDG_CACHE_HOME`, else `~/.cache`); where neither can,
    nothing is kept.
    A link in the place of such a folder is passed over, for it could lead anywhere.

    Args:
        root: the data set's root.
        source: the file that others are made from.
        version: raised when the same source gives other files.
    """

    def __init__(self, root: AnyPath, source: AnyPath, *, version: int) -> None:
        key = _digest(f"{version} {stamp_of(source)}")
        user = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        own = [root / FOLDER] if isinstance(root, Path) else []
        places = (*own, user / "weakclip" / _digest(str(root.resolve())))
        folders = [place / f"{source.stem}-{key}" for place in places]
        self.folders = [folder for folder in folders if not (folder.is_symlink() or folder.parent.is_symlink())]
        for folder in self.folders:
            with contextlib.suppress(OSError):
                remove_leftovers(folder)

    def find(self, name: str) -> Path | None:
        """The file of that name, or None."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def keep(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file to the first place that takes it.

        Args:
            name: relative file name.
            write: writes the path that it is given, whole or not at all.
        """
        for folder in self.folders:
            with contextlib.suppress(OSError):
                write(folder / name)
                return


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
