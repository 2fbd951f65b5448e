"""Names of images, found by what tables and annotation tools make of them."""

from __future__ import annotations

import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Label Studio puts eight digits of a random id before the name of a file that is uploaded."""

_ROBOFLOW = re.compile(r"(.+)_(?:jpe?g|jfif|png|bmp|gif|tiff?|webp)\.rf\.\w+", re.IGNORECASE)
"""Roboflow's name of a file: its own ending is part of it, and a digest follows."""

_LOCAL_FILE = re.compile(r"\?(?:.*&)?d=([^&#]*)")
"""Label Studio serves the files of a local storage as `/data/local-files/?d=PATH`."""


def canonical(text: str) -> str:
    """One spelling of text whose letters are the same: in Unicode, é is one sign or two (NFC).

    >>> canonical("cafe\\u0301") == "caf\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text)


def alike(text: str) -> str:
    """One spelling of texts that look the same: any kind of space is a plain one, and none is at an end (NFKC).

    >>> alike(" at\\u202fnoon.png ")
    'at noon.png'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


class ImageNames:
    """Names of a data set's images, found by the addresses that annotation tools make of them.

    An address means a name by the longest end that is one: letter by letter if possible; else without query, escapes
    and the prefix of an upload; and at last with any case, spaces and joining signs. A name in a folder is found by its
    last part too, where the address has no folder. Whatever means two names means none.

    Args:
        names: unique, with `/`, without the endings of files.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._tables = [(key, grouped(names, key)) for key in (str, canonical, _loose)]
        self._last = grouped(names, lambda name: _loose(PurePosixPath(name).name))
        self._deepest = max((name.count("/") for name in names), default=0) + 1

    def find(self, address: str) -> str | None:
        """The one name that an address means; None where there is none."""
        spellings = list(_spellings(address))
        for key, table in self._tables:
            for parts, _ in spellings:
                longest = parts[-self._deepest :]
                for start in range(len(longest)):
                    found = table.get(key("/".join(longest[start:])), ())
                    if found:
                        return found[0] if len(found) == 1 else None
        for parts, flat in spellings:
            found = self._last.get(_loose(parts[-1]), ()) if flat and parts else ()
            if len(found) == 1:
                return found[0]
        return None


def grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """The names by what they have in common."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _loose(text: str) -> str:
    return re.sub(r"[\s_-]+", "-", alike(text).casefold())


def _spellings(address: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The parts of an address, the last without its ending, and whether the tool keeps no folders."""
    local = _LOCAL_FILE.search(address)
    path = local.group(1) if local else re.split(r"[?#]", address, maxsplit=1)[0]
    for text in dict.fromkeys((address, path, urllib.parse.unquote(path))):
        whole = PurePosixPath(text.replace("\\", "/"))
        folder, last = whole.parts[:-1], whole.stem
        yield (*folder, last), not folder
        upload, renamed = _UPLOAD.match(last), _ROBOFLOW.fullmatch(last)
        if upload:
            yield (*folder, last[upload.end() :]), True
        if renamed:
            yield (*folder, renamed.group(1)), True
