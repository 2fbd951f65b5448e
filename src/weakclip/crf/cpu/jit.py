"""Compiles functions with numba, and keeps the machine code on disk for exactly as long as its sources are the same.

numba's cache compares a single file, the one that holds the function. Machine code that has an older version of a
called function inlined would still be used. Here the cache folder is named by a digest of all source files of the
dense CRF, so that an edit of any of them compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

_config: Any = numba.config  # its attributes are made from the environment
_config_lock = threading.Lock()


def jit(function: Callable[..., Any], *, called_from_python: bool = True) -> Any:
    """Compile without the GIL and without fastmath; cached on disk if a cache folder can be written."""
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    settings["no_cpython_wrapper"] = not called_from_python
    folder = _cache_folder(function.__code__.co_filename, function)
    if folder is not None:
        with _config_lock:  # numba reads the folder when it makes the function's cache, here and never again
            given, _config.CACHE_DIR = _config.CACHE_DIR, folder
            try:
                compiled = numba.njit(function, cache=True, **settings)
            finally:
                _config.CACHE_DIR = given
        if str(compiled.stats.cache_path).startswith(folder):  # else numba could not write there and took another
            return compiled
    return numba.njit(function, **settings)


def inner_jit(function: Callable[..., Any]) -> Any:
    """`jit` for functions that only compiled code calls: it compiles sooner."""
    return jit(function, called_from_python=False)


_folders: dict[str, str | None] = {}


def _cache_folder(file: str, function: Callable[..., Any]) -> str | None:
    """The folder for the machine code of `file`: inside the one that numba itself chooses for `function`.

    numba takes NUMBA_CACHE_DIR, else `__pycache__` beside the file, else the user's cache folder. None where none of
    them can be written: then each process compiles anew.
    """
    if file not in _folders:
        try:
            chosen = str(numba.njit(function, cache=True).stats.cache_path)
        except RuntimeError:
            _folders[file] = None
        else:
            _folders[file] = os.path.join(chosen, f"dense-crf-{source_digest()}")
    return _folders[file]


@cache
def source_digest() -> str:
    """A digest of the names and contents of all source files of `weakclip.crf`."""
    room = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(room.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(room).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
