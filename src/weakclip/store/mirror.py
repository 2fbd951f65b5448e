"""A folder of results at a URL (`s3://bucket/runs/x`): worked on in a copy on this machine, which is sent as it grows.

An object store has no locks, no appending and no renaming, so the work is on a disk as ever, in the user's cache. At
the start the copy becomes what the URL has, unless this copy was the last to write there; what changes is sent.

The order makes a kill harmless for whoever goes on from the URL. Data come first, then logs, then the manifest, which
never names a file that is not there. Of files that change meanwhile only those are sent that were whole before the
others were listed: a mask is never there without what was written before it. A result whose key has changed is taken
out of the manifest before its files are touched: its folder counts for nothing then, and the next command empties it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weakclip.errors import RunError
from weakclip.store.files import atomic_write, expand_home
from weakclip.store.forms import RUN, Form, json_object, stem_of, top_of
from weakclip.store.layout import LOG
from weakclip.store.lock import FolderInUseError
from weakclip.store.mirror_files import (
    WRITER,
    Stamps,
    file_stamp,
    is_same,
    list_files,
    names_in,
    read_file,
    remove_empty,
)
from weakclip.store.progress import track
from weakclip.store.remote import RemoteFolder
from weakclip.store.threads import in_threads
from weakclip.store.trees import Stamp, StoredPath, Tree
from weakclip.store.untrusted_text import one_line

logger = logging.getLogger("weakclip")

THREADS = 32
"""Requests at once."""
SETTLED = 10**9
"""Nanoseconds that a file must be older than the listing of the folder, to be sent while a stage works."""
_LOGS = (".jsonl", ".partial")
"""Endings of files that grow."""


class Mirror:
    """The copy of a folder of results at a URL.

    Args:
        url: of the folder.
        shard: the name of a shard, which has a copy of its own and sends what it has made, beside others that do so.
        claims: whether it says at the URL that it writes there; else it, too, has a name of its own.
        form: of the folder.
    """

    def __init__(self, url: str, shard: str = "", *, claims: bool = True, form: Form = RUN) -> None:
        self.url, self.shard, self._claims, self.form = url.rstrip("/"), shard, claims, form
        self._manifest = form.manifest
        self.home = cache_of(self.url, shard)
        self.folder = self.home / "run"
        self.there = RemoteFolder(self.url)
        self._state = self.home / "sent.json"
        self.writer: str | None = None
        self.keys: dict[str, str] = {}
        self.sent: Stamps = {}

    def _load(self) -> None:
        state = json_object(read_file(self._state))
        self.writer, self.keys = state.get("writer"), state.get("keys", {})
        self.sent = {name: (size, when) for name, (size, when) in state.get("files", {}).items()}

    def _save(self) -> None:
        with atomic_write(self._state, "w") as file:
            json.dump({"writer": self.writer, "keys": self.keys, "files": self.sent}, file)

    def fetch(self) -> None:
        """Make the copy what the URL has, and say there who writes now.

        Raises:
            RunError: there are files of something else; or each side has what the other one lacks.
        """
        self._load()
        self.folder.mkdir(parents=True, exist_ok=True)
        last, tree = json_object(self.there.read(WRITER)), self.there.tree()
        names = names_in(tree)
        form, manifest = self.form, None
        if self._manifest in names:
            manifest = self.there.read(self._manifest)
        readable = manifest is None or form.is_readable(manifest)
        if (names and manifest is None and not last) or not readable:
            raise RunError(f"{self.url}: is not empty and no {form.what} (no {self._manifest}); choose another place")
        if self.writer is not None and last.get("writer") == self.writer and self._add(tree, names, manifest):
            return
        ignored = form.results.difference(form.keys(manifest))
        found = [name for name in names if manifest is not None and top_of(name) not in ignored]
        wanted = {name: tree.files[name] for name in found}
        if wanted or self.sent:
            self._become(tree, wanted, manifest)
        if not self.shard and (manifest is None or form.is_new(manifest)):
            # what else is there is left of a sending that was cut short: it goes with the next one
            left = (name for name in names if name not in wanted and top_of(name) in form.remade)
            self.sent |= dict.fromkeys(left, (-1, -1))
        if self._claims:
            self._claim(last)
        self._save()

    def _claim(self, last: Mapping[str, Any]) -> None:
        """Say at the URL who writes there now."""
        if last:
            logger.info("%s: goes on from what %s", self.url, _said(last))
        self.writer = uuid.uuid4().hex
        said = {"writer": self.writer, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.there.write(WRITER, json.dumps(said).encode())

    def _add(self, tree: Tree, names: Sequence[str], manifest: bytes | None) -> bool:
        """Bring what people have put beside what was sent from here; False where the manifest is not the one sent."""
        own = list_files(self.folder)
        sent = {name for name, stamp in self.sent.items() if own.get(name) == stamp}
        if self._manifest in sent and manifest != read_file(self.folder / self._manifest):
            return False
        new = [name for name in names if name not in own and name not in self.sent]
        new += [name for name in names if name in sent and tree.files[name].size not in (-1, own[name][0])]
        self.sent |= {name: (-1, -1) for name in names if name in own and name not in self.sent}  # killed before a note
        self._get(tree, new)
        self.sent |= {name: stamp for name in new if (stamp := file_stamp(self.folder / name))}
        self._save()
        return True

    def _get(self, tree: Tree, names: Sequence[str]) -> None:
        def get(name: str) -> None:
            if not is_same(self.folder / name, tree.files[name]):
                with atomic_write(self.folder / name) as file, StoredPath(tree, name).open("rb") as content:
                    shutil.copyfileobj(content, file, 2**20)

        at_once(get, names, f"fetching from {self.url}")

    def _become(self, tree: Tree, wanted: dict[str, Stamp], manifest: bytes | None) -> None:
        """Bring what is wanted, the manifest last, and drop the rest, but for what a shard has not sent yet."""
        own, mine = list_files(self.folder), read_file(self.folder / self._manifest)
        unsent = {name for name in own.keys() | self.sent.keys() if own.get(name) != self.sent.get(name)}
        if self.writer is not None:  # else an earlier call was cut short in what follows
            self._check(unsent, self.form.keys(mine, done=True), self.form.keys(manifest, done=True))
        keys, before = self.form.keys(manifest), self.form.keys(mine)
        same = {folder for folder in keys if keys[folder] == before.get(folder)} if self.shard else set()
        kept = {name for name in unsent & own.keys() if top_of(name) in same}
        forgotten = {name for name in wanted.keys() & (unsent - own.keys()) if top_of(name) in same & {self.form.last}}
        (self.folder / self._manifest).unlink(missing_ok=True)
        self.writer, self.keys, self.sent = None, {}, {}
        self._save()
        for name in own.keys() - wanted.keys() - kept - {self._manifest}:
            (self.folder / name).unlink(missing_ok=True)
        remove_empty(self.folder)
        self._get(tree, sorted(wanted.keys() - kept - forgotten - {self._manifest}))
        self._get(tree, [self._manifest] if wanted else [])
        self.keys, self.sent = keys, {name: each for name, each in list_files(self.folder).items() if name not in kept}
        self.sent |= dict.fromkeys(forgotten, (-1, -1))

    def _check(self, unsent: set[str], own: dict[str, str], there: dict[str, str]) -> None:
        """Refuse to drop what the URL lacks: finished stages, and what people have made."""
        lost = {name for name in unsent if top_of(name) not in self.form.remade}
        lost |= {folder for folder in own if unsent and own[folder] != there.get(folder)}
        if lost:
            raise RunError(
                f"{self.url}: another machine has written there, and the copy on this one, {self.folder}, has "
                f"{min(lost)}, which is not there; give another --out, or remove {self.home} to go on from the URL"
            )

    def send(self, *, at_work: bool = False, show: bool = False) -> None:
        """Send what has changed since the last time.

        Args:
            at_work: whether a stage works meanwhile.
            show: whether to show the progress.

        Raises:
            FolderInUseError: another machine writes there now.
            RemoteError: the store cannot be reached or refuses; what has not been sent is, the next time.
        """
        self._check_writer()
        before = time.time_ns() - SETTLED if at_work else None
        manifest, own = read_file(self.folder / self._manifest), list_files(self.folder)
        keys = self.form.keys(manifest)
        remade = {folder for folder, key in self.keys.items() if keys.get(folder) != key}
        changed = {
            name
            for name, stamp in own.items()
            if self.sent.get(name) != stamp
            and name != self._manifest
            and not (self.shard and name == LOG)
            and (before is None or stamp[1] < before or name.endswith(_LOGS))
        }
        told = self._told(changed, own)
        gone = [
            name
            for name, stamp in self.sent.items()
            if (not self.shard or f".{self.shard}." in name)
            and name != self._manifest
            and name not in told
            and (name not in own or (top_of(name) in remade and name not in changed and own[name] != stamp))
        ]
        if not (changed or told or gone or own.get(self._manifest) != self.sent.get(self._manifest)):
            return
        said = f"sending to {self.url}" if show else ""
        try:
            self._remove([*told])
            self._remove([self._manifest] if manifest is None and self._manifest in self.sent else [])
            self._put([name for name in changed if top_of(name) not in remade], own, said)
            if remade and manifest is not None:
                self._write_without(manifest, remade)
            self._put([name for name in changed if top_of(name) in remade], own, said)
            self._remove(gone, said)
            if manifest is not None and (remade or own[self._manifest] != self.sent.get(self._manifest)):
                self.there.write(self._manifest, manifest)
                self.sent[self._manifest] = own[self._manifest]
            self.keys = keys
        finally:
            self._save()

    def leave(self) -> None:
        """Send what has changed, the last of all; of a folder in which nothing is left, nothing is there either.

        Raises:
            FolderInUseError, RemoteError: as `send`.
        """
        self.send(show=True)
        if self._claims and not self.shard and not list_files(self.folder):
            self.there.remove(WRITER)

    def _told(self, changed: set[str], own: Stamps) -> set[str]:
        """Words at the URL on files that are others here: they go first. A shard's go with the files that it sends."""
        stems = {stem_of(name) for name in changed} if self.shard else set()
        found = (name for name, stamp in self.sent.items() if own.get(name) != stamp)
        return {name for name in found if top_of(name) == self.form.last and (not self.shard or stem_of(name) in stems)}

    def _write_without(self, manifest: bytes, results: set[str]) -> None:
        """Take results out of the manifest."""
        left = self.form.without(manifest, results)
        if left is None:
            self.there.remove(self._manifest)
        else:
            self.there.write(self._manifest, left)

    def _remove(self, names: Sequence[str], said: str = "") -> None:
        at_once(self.there.remove, names, said)
        for name in names:
            del self.sent[name]

    def _put(self, names: list[str], own: Stamps, said: str) -> None:
        """Send files; at last those that tell of files that have been sent, and logs, which grow meanwhile."""

        def put(name: str) -> None:
            path = self.folder / name
            if (name.endswith(_LOGS) or file_stamp(path) == own[name]) and self.there.put(name, path):
                self.sent[name] = own[name]

        last = {name for name in names if name.endswith(_LOGS) or top_of(name) == self.form.last}
        at_once(put, [name for name in names if name not in last], said)
        at_once(put, [*last], said)

    def _check_writer(self) -> None:
        last = {} if self.shard else json_object(self.there.read(WRITER))
        if not self.shard and last.get("writer") != self.writer:
            who = f"taken over by what {_said(last)}" if last else "was emptied"
            raise FolderInUseError(
                f"{self.url}: {who}; this command sends no more there, and {self.folder} keeps what it made"
            )


def cache_of(url: str, shard: str = "") -> Path:
    """The folder of this machine for what is written to a URL."""
    cache = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache").absolute()
    return cache / "weakclip" / "runs" / hashlib.sha256(f"{url}\n{shard}".encode()).hexdigest()[:16]


def _said(last: Mapping[str, Any]) -> str:
    return one_line(f"a command on {last.get('host')} has written there since {last.get('since')}")


def at_once(work: Callable[[str], object], names: Sequence[str], said: str) -> None:
    """Do some work on files, many at once; shown, where it has a name."""
    done = in_threads(work, names, threads=THREADS)
    for _ in track(done, said, total=len(names)) if said and names else done:
        pass
