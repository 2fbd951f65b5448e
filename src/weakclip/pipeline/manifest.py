"""What a run folder has done already: one record a stage, keyed by all that its result depends on.

A stage's key is a digest of its own settings, the fingerprints of its data, the keys of the stages whose results it
reads, and the version of its code. A result is used again only under the very same key, so a new checkpoint never
meets the predictions of an old one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from weakclip.datasets.images import write_json
from weakclip.errors import RunError
from weakclip.report import STAGE_FOLDERS
from weakclip.report.folder import are_records
from weakclip.store.files import atomic_write, remove_leftovers, writing
from weakclip.store.lock import LOCK
from weakclip.store.untrusted_text import parse_json, short

logger = logging.getLogger("weakclip")

State = Literal["done", "unfinished", "changed", "new"]

MANIFEST = "manifest.json"

FORMAT = 1
"""Of the manifest; raised when its records mean something else than before."""

FILES = "files.json"
"""In the folder of a finished stage: the names of its files."""


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """All that the result of a stage depends on.

    Args:
        settings: flat settings of the stage, `{"train.steps": 1500}`; JSON values.
        inputs: fingerprint of every input, by the name of the upstream stage or of the data.
        code: version of the stage's code; raised when the same inputs would give another result.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: int = 1

    @property
    def digest(self) -> str:
        """Hexadecimal digest of everything above."""
        content = json.dumps(_canonical([self.settings, self.inputs, self.code]), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def record(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        parts = {"key": self.digest, "settings": self.settings, "inputs": self.inputs, "code": self.code}
        return json.loads(json.dumps(parts))


class Manifest:
    """The records of a run folder, on disk after every change.

    Args:
        folder: the run folder.
        records: stage name → record, as in `manifest.json`.
    """

    def __init__(self, folder: Path, records: dict[str, dict[str, Any]]) -> None:
        self.folder = folder
        self.records = records

    @classmethod
    def open(cls, folder: Path | str) -> Manifest:
        """Read the manifest of a run folder; where there is none, nothing is written before `save`.

        Raises:
            RunError: a non-empty folder that no run wrote, a file in its place, or an unreadable manifest.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder}: is a file; give a folder for the run")
        if path.is_file():
            return cls(folder, _read(path))
        if folder.is_dir() and any(not _is_leftover(entry) for entry in folder.iterdir()):
            raise RunError(
                f"{folder}: is not empty and no run of weakclip (no {MANIFEST}); choose a new or empty folder"
            )
        return cls(folder, {})

    def save(self) -> None:
        """Write `manifest.json`, whole or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        write_json(self.folder / MANIFEST, {"format": FORMAT, "stages": self.records})

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage's artefacts."""
        return self.folder / STAGE_FOLDERS[stage]

    def state(self, stage: str, key: StageKey) -> State:
        """How the stage stands towards `key`."""
        record = self.records.get(stage)
        if record is None:
            return "new"
        if record.get("key") != key.digest:
            return "changed"
        complete = record.get("done") and self.stage_folder(stage).is_dir() and self._is_whole(stage)
        return "done" if complete else "unfinished"

    def _is_whole(self, stage: str) -> bool:
        """Whether every file is there that the stage had when it was done; others may have come."""
        there = self._files(stage)
        listed = self.stage_folder(stage) / FILES
        if not listed.is_file():  # of a version that counted only
            return len(there) >= self.records[stage].get("files", 0)
        try:
            return there.issuperset(parse_json(listed.read_bytes()))
        except (OSError, ValueError, TypeError):
            return False

    def _files(self, stage: str) -> set[str]:
        """The names of a stage's files, without the list of them."""
        folder = self.stage_folder(stage)
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {FILES}

    def differences(self, stage: str, key: StageKey) -> list[str]:
        """What changed since the stage last ran, in words: keys with old and new value, data, upstream stages, code."""
        old, new = self.records[stage], key.record()
        changed = _changed(old.get("settings", {}), new["settings"])
        words = [f"{name}: {_short(before)} → {_short(after)}" for name, before, after in changed]
        for name, _, _ in _changed(old.get("inputs", {}), new["inputs"]):
            words.append(f"{name} is new" if name in STAGE_FOLDERS else f"{name} changed")
        if old.get("code") != new["code"]:
            words.append("this version of weakclip computes it differently")
        return words or ["it was made by another version of weakclip"]

    def start(self, stage: str, key: StageKey) -> Path:
        """Note that the stage begins, or continues; a result under another key is removed first.

        Returns:
            The stage's folder, which exists. What an earlier, unfinished run left under the same key is still in it.
        """
        folder = self.stage_folder(stage)
        state = self.state(stage, key)
        if state in ("changed", "new"):
            self.records.pop(stage, None)
            self.save()
        with writing(folder):
            if state in ("changed", "new") and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self.records[stage] = {**key.record(), "done": False}
        self.save()
        return folder

    def finish(self, stage: str, seconds: float) -> None:
        """Note that the stage's result is complete."""
        files = sorted(self._files(stage))
        with atomic_write(self.stage_folder(stage) / FILES, "w") as file:
            json.dump(files, file, indent=0)  # ASCII: a name may hold bytes that are no UTF-8
        self.records[stage].update(done=True, seconds=round(seconds, 2), files=len(files))
        self.save()


def _canonical(value: Any) -> Any:
    """3.0 as 3: the same number, whether a person or a program wrote it."""
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stages = content["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); it is no manifest of weakclip") from None
    if content.get("format") != FORMAT:
        raise RunError(
            f"{path}: of format {short(content.get('format'))}, and this version of weakclip reads format {FORMAT}; "
            "go on with the version that wrote it, or choose another folder"
        )
    if not are_records(stages):
        raise RunError(f"{path}: has no records of stages; it is no manifest of weakclip")
    return stages


def _is_leftover(entry: Path) -> bool:
    """The lock, or a temporary file of a write that was cut short."""
    return entry.name == LOCK or (entry.name.startswith(".") and entry.name.endswith(".tmp"))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for name in [*after, *(name for name in before if name not in after)]:
        if before.get(name) != after.get(name):
            yield name, before.get(name), after.get(name)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def complain(manifest: Manifest, stage: str, upstream: str, key: StageKey) -> None:
    """Say why a stage cannot run: the one before it has no result under its key.

    Raises:
        RunError: always.
    """
    state = manifest.state(upstream, key)
    why = {"new": "has not been run", "unfinished": "is not finished"}.get(state, "was made with other settings")
    details = f" ({'; '.join(manifest.differences(upstream, key))})" if state == "changed" else ""
    command = upstream.replace("_", "-")
    raise RunError(
        f"{manifest.folder}: {stage} needs {upstream}, which {why}{details}; run `weakclip {command}` or `weakclip run`"
    )


def announce(manifest: Manifest, stage: str, key: StageKey) -> None:
    """Tell the log what will be done about a stage, and why."""
    state = manifest.state(stage, key)
    if state == "done":
        logger.info("%s: done already with the same settings and data; skipped", stage)
    elif state == "unfinished":
        logger.info("%s: not finished; continues", stage)
    elif state == "changed":
        logger.info("%s: runs again, because %s", stage, "; ".join(manifest.differences(stage, key)))
