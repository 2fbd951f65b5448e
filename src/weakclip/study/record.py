"""The results of a study so far: `study.json`, written whole after every rung; a stopped study goes on from it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakclip.crf import CRFParams
from weakclip.errors import RunError
from weakclip.store.files import remove_leftovers, write_json, write_text
from weakclip.store.keys import ResultKey, plain
from weakclip.store.lock import FolderLock
from weakclip.store.manifest import Manifest
from weakclip.store.untrusted_text import parse_json
from weakclip.study.halving import Rung

RECORD = "study.json"


@dataclass(frozen=True)
class Candidate:
    """One dense CRF of the search, and where it comes from: "config", "none", a preset's name, or "random"."""

    origin: str
    params: CRFParams


@dataclass(frozen=True, kw_only=True)
class CRFStudy:
    """A search for the dense CRF of pseudo masks, finished or not.

    Args:
        folder: where it is kept.
        split: the split whose masks are read: a tuning set.
        images: how many of its images have masks.
        candidates: number 0 is the configuration's own.
        rungs: the finished rounds.
    """

    folder: Path
    split: str
    images: int
    candidates: tuple[Candidate, ...]
    rungs: tuple[Rung, ...] = ()

    def standing(self) -> list[int]:
        """All candidates from best to worst: those that came further first, then by their last score."""
        order: dict[int, None] = {}
        for rung in reversed(self.rungs):
            order.update(dict.fromkeys(rung.ranking()))
        return list(order)

    def last_rung(self, number: int) -> Rung:
        """The last round that a candidate was in."""
        return next(rung for rung in reversed(self.rungs) if number in rung.scores)


def check_folder(folder: Path, key: ResultKey) -> None:
    """Raise a `RunError` unless the folder is new, empty, or holds this very study."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; give a folder for the study")
    if (folder / RECORD).is_file():
        known = Manifest(folder, {"study": read_record(folder, "key")})
        if known.records["study"].get("key") != key.digest:
            why = "; ".join(known.differences("study", key))
            raise RunError(f"{folder}: holds a study of something else ({why}); choose a new folder")
    elif folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunError(f"{folder}: is not empty and no study (no {RECORD}); choose a new or empty folder")


@contextlib.contextmanager
def study_folder(folder: Path, key: ResultKey) -> Iterator[None]:
    """Held while a study is at work; the folder is ready for it.

    Raises:
        RunError: as `check_folder`, or another process works there.
    """
    with FolderLock(folder):
        check_folder(folder, key)
        remove_leftovers(folder)
        yield


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write some text files, name → content, each whole or not at all."""
    for name, text in texts.items():
        write_text(folder / name, text)


def finished_rungs(folder: Path) -> tuple[Rung, ...]:
    """The rungs that an earlier call has written; none where there was no such call."""
    if not (folder / RECORD).is_file():
        return ()
    return tuple(
        Rung(entry["images"], {int(candidate): number(score) for candidate, score in entry["mean_iou"].items()})
        for entry in read_record(folder, "rungs")
    )


def save(study: CRFStudy, key: ResultKey) -> None:
    """Write `study.json`."""
    value = {
        "key": key.record(),
        "tuning_set": {"split": study.split, "images": study.images},
        "candidates": [{"origin": each.origin, **plain(each.params)} for each in study.candidates],
        "rungs": [{"images": rung.images, "mean_iou": rung.scores} for rung in study.rungs],
    }
    write_json(study.folder / RECORD, value)


def with_rung(study: CRFStudy, rung: Rung) -> CRFStudy:
    """The study one round further."""
    return dataclasses.replace(study, rungs=(*study.rungs, rung))


def number(score: float | None) -> float:
    """A number of JSON, where null is NaN."""
    return math.nan if score is None else float(score)


def read_record(folder: Path, part: str) -> Any:
    """A part of `study.json`: "key" is a mapping, any other a list.

    Raises:
        RunError: an unreadable file, or one without that part.
    """
    path = folder / RECORD
    try:
        found = parse_json(path.read_text(encoding="utf-8"))[part]
        if not isinstance(found, dict if part == "key" else list):
            raise TypeError(f"{part}: found {type(found).__name__}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error!r}); it is no record of a study, choose a new folder") from None
    return found
