"""Files that lie in no folder of this machine: at a URL, or inside archives; read like those of a `pathlib.Path`."""

from __future__ import annotations

import functools
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple, cast, overload

STREAMED = 64 * 2**20
"""Bytes from which a file is read in pieces, of `PIECE` bytes."""
PIECE = 8 * 2**20


class Stamp(NamedTuple):
    """Size of a file in bytes, -1 where it is not told, and what changes with its content: a time or an ETag."""

    size: int
    version: str

    def __str__(self) -> str:
        return f"{self.size} {self.version}"


class Tree(ABC):
    """Files by their paths below a place, with `/`.

    Args:
        url: the place, as messages name it.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @functools.cached_property
    def files(self) -> Mapping[str, Stamp]:
        """Every file; listed once.

        Raises:
            DataError: no such place, or nothing in it.
            RemoteError: the store cannot be reached, or refuses.
        """
        return self._listed()

    @functools.cached_property
    def folders(self) -> Mapping[str, tuple[list[str], list[str]]]:
        """Each folder's folders and files; "" is the place itself."""
        found: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        for file in self.files:
            folder, _, name = file.rpartition("/")
            for above, _, below in reversed([*_above(folder)]):
                if (f"{above}/{below}" if above else below) not in found:
                    found[f"{above}/{below}" if above else below] = ([], [])
                    found[above][0].append(below)
            found[folder][1].append(name)
        return found

    @abstractmethod
    def _listed(self) -> dict[str, Stamp]: ...

    @abstractmethod
    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` to before `stop`, or to its end.

        Raises:
            BrokenFileError: no such file.
            RemoteError: the store cannot be reached, refuses, or the file came short.
        """


def _above(folder: str) -> Iterator[tuple[str, str, str]]:
    while folder:
        parts = folder.rpartition("/")
        yield parts
        folder = parts[0]


class _Pieces(io.RawIOBase):
    """A file that is read in pieces as they are wanted."""

    def __init__(self, path: StoredPath) -> None:
        super().__init__()
        self._path, self._at, self._size = path, 0, path.tree.files[path.inner].size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        content = self._path.tree.read(self._path.inner, self._at, stop) if stop > self._at else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


@functools.total_ordering
class StoredPath:
    """A file or folder of a tree, with the methods of `pathlib.Path` that reading takes.

    Args:
        tree: what it is in.
        inner: its path there; "" for the place itself.
    """

    __slots__ = ("inner", "tree")

    def __init__(self, tree: Tree, inner: str = "") -> None:
        self.tree, self.inner = tree, inner

    def __str__(self) -> str:
        return f"{self.tree.url}/{self.inner}" if self.inner else self.tree.url

    def __repr__(self) -> str:
        return f"StoredPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPath) and str(self) == str(other)

    def __lt__(self, other: StoredPath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, part: str) -> StoredPath:
        return StoredPath(self.tree, f"{self.inner}/{part}" if self.inner else part)

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(str(self)).name

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """As `PurePosixPath` has them of an address in a table."""
        return PurePosixPath(str(self).rpartition("::")[2]).parts

    @property
    def parent(self) -> StoredPath:
        """The folder; the place's own is the place."""
        return StoredPath(self.tree, self.inner.rpartition("/")[0])

    def absolute(self) -> StoredPath:
        """Itself."""
        return self

    resolve = absolute

    def relative_to(self, folder: StoredPath) -> PurePosixPath:
        """The path below a folder of the same tree."""
        return PurePosixPath(self.inner).relative_to(folder.inner)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.inner in self.tree.files

    def is_dir(self) -> bool:
        """Whether it is a folder with something in it."""
        return self.inner in self.tree.folders

    def exists(self) -> bool:
        """Whether it is either."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[StoredPath]:
        """The files and folders in the folder."""
        return (self / name for names in self.tree.folders[self.inner] for name in names)

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            BrokenFileError, RemoteError: as `Tree.read`.
        """
        return self.tree.read(self.inner)

    def read_text(self, encoding: str) -> str:
        """The content of a text file; errors as `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def pieces(self) -> IO[bytes]:
        """The file, of which each read asks for its own bytes only. Errors as `read_bytes`, at a read."""
        return cast(IO[bytes], _Pieces(self))

    @overload
    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...

    @overload
    def open(self, mode: Literal["r"] = "r", *, encoding: str, newline: str | None = None) -> IO[str]: ...

    def open(self, mode: str = "r", *, encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """The file, for reading; a large one comes in pieces. Errors as `read_bytes`, there or at a piece."""
        large = self.is_file() and self.tree.files[self.inner].size > STREAMED
        file: Any = io.BufferedReader(_Pieces(self), PIECE) if large else io.BytesIO(self.read_bytes())
        return file if mode == "rb" else io.TextIOWrapper(file, encoding=encoding, newline=newline)


AnyPath = Path | StoredPath


def stamp_of(path: AnyPath) -> Stamp:
    """Size and time of a file, or what a store says in their place.

    Raises:
        OSError: a path at which nothing can be read.
    """
    if isinstance(path, StoredPath):
        if not path.is_file():
            raise FileNotFoundError(2, "no such file", str(path))
        return path.tree.files[path.inner]
    stat = path.stat()
    return Stamp(stat.st_size, str(stat.st_mtime_ns))


def read_part(path: AnyPath, start: int, size: int) -> bytes:
    """Some bytes of a file.

    Raises:
        OSError, BrokenFileError, RemoteError: it cannot be read.
    """
    if isinstance(path, StoredPath):
        return path.tree.read(path.inner, start, start + size)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def below(path: AnyPath, folder: AnyPath) -> str:
    """The path below a folder, with `/`; empty for the folder itself."""
    return "/".join(path.parts[len(folder.parts) :])


def walk(folder: AnyPath) -> Iterator[tuple[AnyPath, list[str], list[str]]]:
    """As `os.walk`: each folder with the names of its folders, which may be taken out of the list, and of its files."""
    if isinstance(folder, Path):
        yield from ((Path(current), folders, files) for current, folders, files in os.walk(folder))
        return
    folders, files = (list(names) for names in folder.tree.folders.get(folder.inner, ([], [])))
    yield folder, folders, files
    for name in folders:
        yield from walk(folder / name)
