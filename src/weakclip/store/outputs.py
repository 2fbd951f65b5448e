"""Results of a command: a folder of this machine, or one at a URL, which `mirror` copies; and finished files."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from weakclip.errors import ConfigError, RemoteError, RunError, StorageError, WeakCLIPError
from weakclip.store.files import expand_home, read_json_if_any, was_url, write_json
from weakclip.store.forms import RUN, Form
from weakclip.store.lock import FolderLock
from weakclip.store.mirror import Mirror, at_once, cache_of
from weakclip.store.mirror_files import list_files, names_in
from weakclip.store.remote import RemoteFolder, check_url, is_url

logger = logging.getLogger("weakclip")
_own_logger = logging.getLogger("weakclip.mirror")  # whose lines keep the name of the copy

SENT_EVERY = 300.0
"""Seconds from one sending to the next while a stage works."""

_LAST = ("config.json", "data.yaml", "labels.txt", "mask_targets.json")
"""Files by which programs know an exported folder."""

_open = list[Mirror]()


@contextlib.contextmanager
def mirrored(out: Path | str, shard: str = "", *, claims: bool = True, form: Form = RUN) -> Iterator[Path]:
    """The folder on this machine: `out`, with `~` for the home, or the copy of what it is the URL of.

    Within it errors and log lines name the URL; behind it, all is there.

    Args:
        out: a folder or a URL.
        shard: the name of a shard, or of what looks at a run; empty for a whole run.
        claims: whether others that write at the URL are to end.
        form: of the folder.

    Raises:
        ConfigError: a URL with a password, of no place, or with one slash; or work that is shared by several machines.
        FolderInUseError: another process of this machine works on the same URL.
        RunError: as `Mirror.fetch`.
        RemoteError: the store cannot be reached or refuses; the copy keeps what was made.
    """
    if not is_url(out):
        yield _folder(out)
        return
    url = _checked(str(out))
    if os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")):
        raise ConfigError(
            f"{url}: processes of several machines work in one folder, and each machine has a copy of its own; give a "
            "folder that they share, or share images with --shard"
        )
    mirror = Mirror(url, shard, claims=claims, form=form)
    copies = {mirror.folder: url, mirror.home: url}
    with contextlib.ExitStack() as stack:
        with _renamed(copies):
            stack.enter_context(FolderLock(mirror.home))
        mirror.fetch()
        _open.append(mirror)
        try:
            with _renamed(copies):
                yield mirror.folder
        except BaseException:
            with contextlib.suppress(WeakCLIPError):
                _try(mirror, show=True)
            raise
        finally:
            _open.remove(mirror)
        try:
            mirror.leave()
        except RemoteError as error:
            raise RemoteError(f"{error}; what was made is kept in {mirror.folder}") from None


@contextlib.contextmanager
def delivered(out: Path | str) -> Iterator[Path]:
    """A place on this machine for a finished file or a new folder: `out` or, of a URL, one whose content is sent there.

    What is written beside the file goes beside it there. The file itself, or the one by which a folder is known, is
    sent last. Without that one a folder that was cut short counts for nothing when this machine sends to it again.

    Args:
        out: a path or a URL.

    Raises:
        ConfigError: as `mirrored`.
        RunError: something else is in the folder there already.
        FolderInUseError: another process of this machine writes to the same URL.
        RemoteError: the store cannot be reached or refuses; what was made is kept.
    """
    if not is_url(out):
        yield _folder(out)
        return
    url = _checked(str(out).rstrip("/"))
    place, name = split_url(url)
    there, home = RemoteFolder(place), cache_of(url)
    made, note = home / "made", home / "begun.json"
    with _renamed({made / name: url, made: place, home: url}), FolderLock(home):
        begun = {*read_json_if_any(note).get("files", [])}
        listed = [file for file in names_in(RemoteFolder(url).tree()) if file.lstrip("/") != url.partition("://")[2]]
        found = {f"{name}/{file}" for file in listed}
        if not found <= begun:
            raise RunError(f"{url}: is a folder with files in it; choose another place, or remove it there")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        yield made / name
        last = {f"{name}/{each}" for each in _LAST}
        files = sorted(list_files(made), key=lambda file: (file == name, file in last, file))
        write_json(note, {"files": sorted(found.union(files[:-1]))})
        try:
            _deliver(there, made, files, found)
        except RemoteError as error:
            kept = f"{error}; what was made is kept in "
        else:
            note.unlink()
            shutil.rmtree(made)
            return
    raise RemoteError(f"{kept}{made}")


def _deliver(there: RemoteFolder, made: Path, files: Sequence[str], found: set[str]) -> None:
    """Send finished files, the last one behind the others, in place of those of a sending that was cut short."""
    said = f"sending to {there.url}"
    at_once(there.remove, sorted(found.difference(files)), "")
    for some in (files[:-1], files[-1:]):
        at_once(lambda file: there.put(file, made / file), some, said)


def split_url(url: str) -> tuple[str, str]:
    """The folder and the name of a file at a URL.

    Raises:
        ConfigError: it names a bucket only.

    >>> split_url("s3://bucket/photos/labels.csv")
    ('s3://bucket/photos', 'labels.csv')
    """
    place, _, name = url.rpartition("/")
    if place.endswith("/") or not name:
        raise ConfigError(f"{url}: names no file; expected one such as s3://bucket/x/{name or 'labels.csv'}")
    return place, name


def copy_of(out: Path | str) -> Path:
    """The folder on this machine, for a companion of the process that has it by `mirrored`."""
    return Mirror(str(out)).folder if is_url(out) else _folder(out)


def url_open() -> str:
    """The URL whose copy this process works on; empty for none."""
    return _open[-1].url if _open else ""


def send_now() -> None:
    """Send what has changed, where a URL's copy is worked on; what fails is said, and sent the next time."""
    for mirror in _open[-1:]:
        _try(mirror)


@contextlib.contextmanager
def sending() -> Iterator[None]:
    """Within it, a stage works, and what it makes is sent now and then."""
    if not _open:
        yield
        return
    send_now()
    mirror, ended = _open[-1], threading.Event()

    def work() -> None:
        while not ended.wait(SENT_EVERY):
            try:
                _try(mirror, at_work=True)
            except WeakCLIPError as error:
                _own_logger.warning("%s", error)

    thread = threading.Thread(target=work, name="sending", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _try(mirror: Mirror, *, at_work: bool = False, show: bool = False) -> None:
    try:
        mirror.send(at_work=at_work, show=show)
    except RemoteError as error:
        _own_logger.warning("%s; what was made is kept in %s, and sent the next time", error, mirror.folder)


@contextlib.contextmanager
def _renamed(copies: Mapping[Path, str]) -> Iterator[None]:
    """Within it, errors and log lines name URLs in place of their copies; those about the disk name the copy."""

    def named(text: str) -> str:
        for copy, url in copies.items():
            text = text.replace(str(copy), url)
        return text

    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = named(record.getMessage()), None
        return True

    logger.addFilter(rename)
    try:
        yield
    except StorageError:
        raise  # about this machine's disk
    except WeakCLIPError as error:
        error.args = (named(str(error)), *error.args[1:])
        raise
    finally:
        logger.removeFilter(rename)


def _checked(url: str) -> str:
    """A URL that can be written to."""
    check_url(url, "--out")
    if not url.partition("://")[2].strip("/"):
        raise ConfigError(f"{url}: names no place; expected one such as s3://bucket/runs/x")
    if url.startswith(("file://", "local://")):
        raise ConfigError(f"{url}: a folder of this machine; give its path, {url.partition('://')[2]}")
    if "::" in url:
        raise ConfigError(f"{url}: a chain of file systems; results go to one, such as s3://bucket/runs/x")
    return url


def _folder(out: Path | str) -> Path:
    if was_url(out):
        raise ConfigError(f"{out}: a URL with one slash, which is a path; write :// (in Python, give it as text)")
    return expand_home(out)
