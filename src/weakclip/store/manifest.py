"""Which stages of a run folder are done, and under which keys: `manifest.json`, on disk after every change.

A result is replaced only when that is asked for, and not before the new one stands: until then it lies beside its
folder, as `2_train.previous`. A new result that was given up makes way for the previous one when the settings go back.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard

from weakclip.errors import RunError, first_line
from weakclip.store.files import atomic_write, write_json, writing
from weakclip.store.keys import ResultKey
from weakclip.store.layout import MANIFEST, STAGE_FOLDERS
from weakclip.store.lock import LOCK
from weakclip.store.untrusted_text import parse_json, short

logger = logging.getLogger("weakclip")

State = Literal["done", "unfinished", "changed", "new"]
Record = dict[str, Any]

FORMAT = 2
READABLE = (1, FORMAT)
"""Formats whose records can be read; only a run of `FORMAT` is continued."""
FILES = "files.json"
"""In the folder of a finished stage: the names of its files."""
PREVIOUS = ".previous"
"""Added to the name of a stage's folder: its result under other settings, until the new one is done."""
_MOVING = "moving"
"""In the record of a previous result: its folder is being moved, and lies in one of the two places."""
_STAGES = frozenset(STAGE_FOLDERS)


class Manifest:
    """The records of a run folder.

    Args:
        folder: the run folder.
        records: stage → record of its result, as in `manifest.json`.
        previous: stage → record of the result that it had before, where that is still there.
    """

    def __init__(
        self, folder: Path, records: dict[str, Record] | None = None, previous: dict[str, Record] | None = None
    ) -> None:
        self.folder = folder
        self.records = records or {}
        self.previous = previous or {}

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
            stages, previous, made_by = _read(path)
            if made_by != FORMAT:
                raise RunError(
                    f"{path}: format {FORMAT} expected; found {short(made_by)}, of another version of weakclip; its "
                    "masks and its report can be used, but the run cannot be continued: give another --out"
                )
            return cls(folder, stages, previous)
        if folder.is_dir() and any(not _is_leftover(entry) for entry in folder.iterdir()):
            raise RunError(
                f"{folder}: is not empty and no run of weakclip (no {MANIFEST}); choose a new or empty folder"
            )
        return cls(folder)

    def save(self) -> None:
        """Write `manifest.json`, whole or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        previous = {"previous": self.previous} if self.previous else {}
        write_json(self.folder / MANIFEST, {"format": FORMAT, "stages": self.records, **previous})

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage's artefacts."""
        return self.folder / STAGE_FOLDERS[stage]

    def state(self, stage: str, key: ResultKey, outputs: Mapping[str, Any] | None = None) -> State:
        """How the stage stands towards `key`: a result that lacks files that `outputs` ask for is unfinished."""
        record = self.records.get(stage)
        if record is None:
            return "new"
        if record.get("key") != key.digest:
            return "changed"
        had = record.get("outputs", {})
        enough = all(_has(had.get(name), value) for name, value in (outputs or {}).items())
        complete = record.get("done") and self.stage_folder(stage).is_dir() and self._is_whole(stage)
        return "done" if complete and enough else "unfinished"

    def _is_whole(self, stage: str) -> bool:
        """Whether every file is there that the stage had when it was done; others may have come."""
        try:
            listed = parse_json((self.stage_folder(stage) / FILES).read_bytes())
            counted = isinstance(listed, list) and len(listed) == self.records[stage].get("files")
            return counted and self._files(stage).issuperset(listed)
        except (OSError, ValueError, TypeError):
            return False

    def _files(self, stage: str) -> set[str]:
        """The names of a stage's files, without the list of them."""
        folder = self.stage_folder(stage)
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {FILES}

    def replaces_a_result(self, stage: str, key: ResultKey) -> bool:
        """Whether a finished result, that of the stage or the one that was set aside for it, would make way for one
        under `key`, although nobody has begun that one."""
        if self.state(stage, key) not in ("changed", "new"):
            return False
        current, previous = self.records.get(stage, {}), self.previous.get(stage, {})
        aside = bool(previous.get("done")) and previous.get("key") != key.digest
        return (bool(current.get("done")) and self.stage_folder(stage).is_dir()) or aside

    def previous_but_for(self, stage: str, key: ResultKey, inputs: frozenset[str]) -> Path | None:
        """The folder of the finished result that was set aside, if nothing but some inputs tells its key from `key`."""
        record, new = self.previous.get(stage), key.record()
        if record is None or not record.get("done") or _MOVING in record:
            return None
        before, after = (
            {name: digest for name, digest in each.get("inputs", {}).items() if name not in inputs}
            for each in (record, new)
        )
        same = before == after and all(record.get(part) == new[part] for part in ("settings", "code"))
        return self._aside(stage) if same and self._aside(stage).is_dir() else None

    def comes_back(self, stage: str, key: ResultKey) -> bool:
        """Whether `start` would take back the result that was set aside for one that is not finished."""
        unfinished = self.state(stage, key) in ("changed", "new")
        return unfinished and self.previous.get(stage, {}).get("key") == key.digest

    def differences(self, stage: str, key: ResultKey) -> list[str]:
        """The changes since the stage's finished result, or else since it was begun, in words."""
        current, previous = self.records.get(stage, {}), self.previous.get(stage, {})
        record = current if current.get("done") or not previous else previous
        return key.differences(record, made_here=_STAGES)

    def start(self, stage: str, key: ResultKey) -> Path:
        """Note that the stage begins, or continues.

        A result under another key is set aside. If what was set aside earlier has this very key, and what is there now
        is not finished, it takes its place again.

        Returns:
            The stage's folder, which exists. What an earlier, unfinished run left under the same key is still in it.
        """
        folder = self.stage_folder(stage)
        with writing(folder):
            self._end_move(stage)
            if self.state(stage, key) in ("changed", "new"):
                self._make_way(stage, key)
            folder.mkdir(parents=True, exist_ok=True)
        if not self.records.get(stage, {}).get("done"):  # files that are added to a finished result leave it finished
            self.records[stage] = {**key.record(), "done": False}
            self.save()
        return folder

    def finish(self, stage: str, seconds: float, outputs: Mapping[str, Any] | None = None) -> None:
        """Note that the stage's result is complete; the one that it replaces is removed."""
        noted = {"outputs": dict(outputs)} if outputs else {}
        files = sorted(self._files(stage))
        with atomic_write(self.stage_folder(stage) / FILES, "w") as file:
            json.dump(files, file, indent=0)  # ASCII: a name may hold bytes that are no UTF-8
        self.records[stage].update(done=True, seconds=round(seconds, 2), files=len(files), **noted)
        replaced = self.previous.pop(stage, None)
        self.save()
        if replaced is not None:
            with writing(self.folder):
                shutil.rmtree(self._aside(stage), ignore_errors=True)

    def _aside(self, stage: str) -> Path:
        return self.folder / f"{STAGE_FOLDERS[stage]}{PREVIOUS}"

    def _make_way(self, stage: str, key: ResultKey) -> None:
        """Leave the stage's place empty, or with the previous result, if that is what is wanted."""
        folder, current, previous = self.stage_folder(stage), self.records.get(stage), self.previous.get(stage)
        if current is not None and previous is None:
            self.previous[stage] = {**current, _MOVING: True}
            del self.records[stage]
            self.save()
            self._end_move(stage)
            return
        # One result is kept, the one that was set aside: the one that is here now was begun later and given up.
        self.records.pop(stage, None)
        self.save()
        if folder.exists():
            shutil.rmtree(folder)
        if previous is not None and previous.get("key") == key.digest:
            self.previous[stage] = {**previous, _MOVING: True}
            self.save()
            self._aside(stage).rename(folder)
            self.records[stage] = self.previous.pop(stage)
            del self.records[stage][_MOVING]
            self.save()
            logger.info("%s: the previous result has these settings and is taken back", stage)

    def _end_move(self, stage: str) -> None:
        """End a move of a previous result that was begun, or cut short: it ends beside the stage's folder."""
        record = self.previous.get(stage)
        if record is None and self._aside(stage).exists():  # of a result that was replaced: its removal was cut short
            shutil.rmtree(self._aside(stage))
        if record is None or _MOVING not in record:
            return
        aside, folder = self._aside(stage), self.stage_folder(stage)
        if not aside.exists() and folder.exists():
            folder.rename(aside)
        if aside.exists():
            del record[_MOVING]
        else:
            del self.previous[stage]
        self.save()


def read_records(folder: Path | str) -> dict[str, Record]:
    """The records of a run's stages, for those who read results and make none; runs of earlier formats are read too.

    Returns:
        Stage → record of its result; empty where there is no manifest.

    Raises:
        RunError: the manifest cannot be read, or is of an unknown format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return {}
    stages, _, made_by = _read(path)
    if made_by not in READABLE:
        raise RunError(
            f"{path}: one of the formats {READABLE} expected; found {short(made_by)}, of another version of weakclip"
        )
    return stages


def _read(path: Path) -> tuple[dict[str, Record], dict[str, Record], object]:
    """The records, those of previous results, and the format."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stages, previous, made_by = content["stages"], content.get("previous", {}), content.get("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)}); it is no manifest of weakclip") from None
    if not are_records(stages) or not are_records(previous):
        raise RunError(f"{path}: has no records of stages; it is no manifest of weakclip")
    return stages, previous, made_by


def are_records(value: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Whether a value is what `manifest.json` keeps under `stages`: a record a stage, its entries of their kinds."""
    kinds = {
        "outputs": dict,
        "key": str,
        "done": bool,
        "files": int,
        "seconds": int | float,
        "settings": dict,
        "inputs": dict,
    }
    return isinstance(value, dict) and all(
        isinstance(record, dict) and all(name not in record or isinstance(record[name], kinds[name]) for name in kinds)
        for record in value.values()
    )


def _has(had: Any, wanted: Any) -> bool:
    """Whether files that were asked for, yes or no or how many, are there."""
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        return wanted is False or had == wanted
    return isinstance(had, int) and had >= wanted


def _is_leftover(entry: Path) -> bool:
    """The lock, or a temporary file of a write that was cut short."""
    return entry.name.startswith(LOCK) or (entry.name.startswith(".") and entry.name.endswith(".tmp"))
