"""Files that appear whole or not at all, what a disk can refuse in one line, and what killed processes leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from weakclip.errors import BrokenFileError, ConfigError, StorageError
from weakclip.store.untrusted_text import parse_json

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, and give the same command again",
    errno.EDQUOT: "your quota is used up: make room, and give the same command again",
    errno.EROFS: "mount the disk for writing, or choose another folder",
    errno.EACCES: "give yourself the right to write there (chmod u+w), or choose another folder",
    errno.EPERM: "give yourself the right to write there (chmod u+w), or choose another folder",
    errno.ENOENT: "its folder has vanished: bring it back, and give the same command again",
    errno.EIO: "see to the disk, and give the same command again",
    errno.ELOOP: "a link lies in its place: look where it leads, and remove it",
    errno.ESTALE: "see to the network disk, and give the same command again",
}
_LEFTOVER = re.compile(r"^\..*\.(\d+)\.[^.]*\.tmp$")


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once: reading it means setting it, which other threads must not meet


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turns the system's error about `path` into a `StorageError` that names the file and what to do.

    Errors about other places, such as a file that is read meanwhile, pass as they are.

    Raises:
        ConfigError: a URL, for which a folder `s3:` would be made here.
        StorageError: as above.
    """
    path = Path(path)
    refuse_url(path)
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if not _is_about(error, path):
            raise
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); {advice}", error) from None


def was_url(path: Path | str) -> bool:
    """Whether a path is what becomes of a URL, such as `s3:/bucket/x`."""
    return re.match(r"[a-z0-9+.-]{2,}:/+[^/]", str(path)) is not None


def refuse_url(path: Path, name: str = "") -> None:
    """Raise a `ConfigError` that names the URL which a path was made of, if it was, and the option that it is given to.

    Args:
        path: a path, or what `Path` makes of a URL.
        name: of the option or argument, where there is one.
    """
    if was_url(path):
        url = re.sub(":/+", "://", str(path), count=1)
        raise ConfigError(
            f"{name and f'{name}: '}{url}: a URL found, a file or folder of this machine expected; give a path, and "
            "copy from or to the URL"
        )


def _is_about(error: OSError, path: Path) -> bool:
    """Whether it is the file itself, one beside it (its temporary file), or a folder above it that is refused."""
    if error.filename is None:
        return True
    named, path = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    return named.parent == path.parent or path.is_relative_to(named) or named.is_relative_to(path)


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it, on failure remove it.

    Raises:
        StorageError: the disk is full or read-only, or the folder may not be written; what lay at `path` stays.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target, "w") as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = temporary_name(path.name)
        handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        try:
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_UMASK)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, whole or not at all, as UTF-8; errors as `atomic_write`."""
    with atomic_write(path, "w") as file:
        file.write(text)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all; errors as `atomic_write`."""
    with source.open("rb") as content, atomic_write(target) as file:
        shutil.copyfileobj(content, file)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path`; on success it is called `path`, on failure it is removed.

    Args:
        path: a new folder, or an empty one.

    Raises:
        StorageError: something is there already, or the place cannot be written.
    """
    path = Path(path)
    with writing(path):
        if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            raise StorageError(f"{path}: is there already and not an empty folder; choose a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = temporary_name(path.name)
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=path.parent))
        try:
            yield folder
            os.chmod(folder, 0o777 & ~_UMASK)
            if path.exists():
                path.rmdir()
            os.replace(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def temporary_name(name: str) -> tuple[str, str]:
    """Prefix and suffix of the temporary file of `name`, by which `remove_leftovers` knows it and its process."""
    return f".{name[:40]}.{os.getpid()}.", ".tmp"


def no_link(path: str, flags: int) -> int:
    """An opener for `open`, for files that are not replaced but written to: in the place of one, a link is an error.

    A run folder can come from somebody else; a link in it must not choose which file of this machine is written to.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def expand_home(path: Path | str) -> Path:
    """`~` and `~name` as the shell reads them: where there is no such home, they stay as they are."""
    return Path(os.path.expanduser(path))


def append_json(path: Path | str, entry: Mapping[str, Any]) -> int:
    """Append one line of JSON, whole or not at all; a line that was cut short before it is ended first.

    Returns:
        Where the line begins, bytes.

    Raises:
        StorageError: it cannot be written; what was there stays.
    """
    with writing(path), open(path, "ab+", buffering=0, opener=no_link) as file:
        return append_line(file, entry)


def append_line(file: FileIO, entry: Mapping[str, Any]) -> int:
    """`append_json`, to a file that is open for reading and appending, without a buffer; errors as they come."""
    size = file.seek(0, os.SEEK_END)
    torn = size > 0 and file.seek(size - 1) >= 0 and file.read(1) != b"\n"
    _append(file, f"{chr(10) * torn}{json.dumps(dict(entry), ensure_ascii=False)}\n".encode(), size)
    return size + torn


def append_bytes(path: Path | str, content: bytes) -> None:
    """Append to a file, all or nothing.

    Raises:
        StorageError: it cannot be written; what was there stays.
    """
    with writing(path), open(path, "ab", buffering=0, opener=no_link) as file:
        _append(file, content, file.seek(0, os.SEEK_END))


def _append(file: FileIO, content: bytes, size: int) -> None:
    """Write behind the `size` bytes that are there, and take back what did not fit whole."""
    try:
        done = file.write(content)  # one system call, so that a kill comes before or after it
        while done < len(content):
            done += file.write(content[done:])
    except OSError:
        file.truncate(size)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are no more, in `folder` and below.

    Raises:
        StorageError: they may not be removed.
    """
    for path in list(folder.rglob(".*.tmp")):
        writer = _LEFTOVER.match(path.name)
        if writer and int(writer[1]) != os.getpid() and process_lives(int(writer[1])):
            continue
        with writing(path.parent), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_inside(path: Path, root: Path) -> None:
    """Refuse a link to a file that leads out of the folder it lies in and out of `root`.

    Whole folders may be links, and so may `root`: a person has laid those. A single link among a thousand images can
    come in an archive from elsewhere, and name any file of this machine.

    Raises:
        DataError: such a link.
    """
    if not path.is_symlink():
        return
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(os.path.realpath(folder)) for folder in (path.parent, root)):
        raise BrokenFileError(
            f"{path}: a link that leads out of {root}, to {target}; copy the file there, or link the whole folder"
        )


def process_lives(pid: int) -> bool:
    """Whether a process of this machine has that number; where that cannot be told, True."""
    if os.name != "posix":
        return True  # there, signal 0 is no question
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def read_json_if_any(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file, or something else in it."""
    try:
        found = parse_json(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; numpy values as numbers, NaN and infinity as null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
