"""The table of proposed labels, and the scores that a stopped command has left."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakclip.clip import Encoder
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.image_folder import ImageFolder
from weakclip.errors import ConfigError, DataError
from weakclip.store.files import atomic_write, no_link
from weakclip.store.progress import track
from weakclip.store.threads import usable_cores
from weakclip.store.untrusted_text import parse_json
from weakclip.tools.tag.zero_shot import Tagger, TagSettings, tag_windows

COLUMNS = ("image", "labels", "check")
SCORE = "score: "
"""Before the name of a class: the column of its score. Who reads labels passes these columns over."""

SEPARATORS = ";,\t\n\r"


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """The proposed labels.

    Args:
        path: the table.
        images: how many images have a row.
        classes: class name → how many images it was proposed for.
        unsure: images without a class at or above the threshold; their labels are empty.
        unread: a line for every image that could not be read; it has no row.
        notes: sentences on other files that are left out.
    """

    path: Path
    images: int
    classes: dict[str, int]
    unsure: tuple[str, ...]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def write_labels(images: ImageFolder, out: Path, class_set: ClassSet, clip: Encoder, settings: TagSettings) -> Tagging:
    """Write a table of labels that `read_label_rows` reads: a row an image, with its classes and all their scores.

    Every class at or above the threshold is proposed. An image without one gets no label, and its `check` column names
    its best class: a run leaves it out until somebody has tagged it. Scores are kept beside the table until that is
    there: a stopped command goes on.

    Args:
        images: the images.
        out: the table; it is replaced.
        class_set: the classes.
        clip: the encoder.
        settings: see `TagSettings`.

    Raises:
        ConfigError: a path that cannot be written.
        DataError: a class name that cannot stand in a table, or no image that can be read.
    """
    for name in class_set.names:
        if any(mark in name for mark in SEPARATORS):
            raise DataError(
                f"class {name!r}: a name with ; or , cannot stand in a table of labels; put commas between names, or "
                "take another one"
            )
    kept = _KeptScores(out, _key(class_set, clip, settings))
    tagger = Tagger(clip, class_set, settings)
    unread: list[str] = []
    left = [file for file in images.files if kept.find(images.folder, file) is None]
    with kept:
        shown = track(_score(tagger, images.folder, left), "tagging", total=len(images.files), done=len(kept.scores))
        for file, result in shown:
            if isinstance(result, str):
                unread.append(result)
            else:
                kept.add(images.folder, file, result)
    rows = {file: scores for file in images.files if (scores := kept.find(images.folder, file)) is not None}
    if not rows:
        raise DataError(f"{images.folder}: no image can be read, the first: {unread[0]}")
    counts, unsure = _write_table(out, rows, class_set, settings.threshold)
    kept.remove()
    return Tagging(
        path=out,
        images=len(rows),
        classes=counts,
        unsure=tuple(unsure),
        unread=tuple(unread),
        notes=tuple(images.notes()),
    )


def _key(class_set: ClassSet, clip: Encoder, settings: TagSettings) -> str:
    """Digest of what the scores depend on, beside the images."""
    words = (class_set.names, class_set.prompts, class_set.background_prompts)
    parts = [clip.source, clip.fingerprint(), *words, settings.prompt_template]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _score(tagger: Tagger, folder: Path, files: Sequence[str]) -> Iterator[tuple[str, list[float] | str]]:
    """Each file with its scores, or with what is wrong with it; threads read the images of a batch."""
    step = tagger.settings.batch_size

    def windows(file: str) -> list[np.ndarray] | str:
        try:
            return tag_windows(folder / file, tagger.clip.image_size)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for first in range(0, len(files), step):
            batch = files[first : first + step]
            read = list(pool.map(windows, batch))
            good = [image for image in read if not isinstance(image, str)]
            scores = iter(tagger.scores(good).tolist() if good else [])
            for file, image in zip(batch, read, strict=True):
                yield file, image if isinstance(image, str) else [round(score, 4) for score in next(scores)]


class _KeptScores:
    """Scores of the images so far, a line each, in `NAME.partial` beside the table."""

    def __init__(self, out: Path, key: str) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self.key = key
        self.scores: dict[str, tuple[str, list[float]]] = dict(self._read())

    def _read(self) -> Iterator[tuple[str, tuple[str, list[float]]]]:
        """The scores that an earlier command left; none where it asked for something else."""
        if not self.path.is_file():
            return
        first, *lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        if first == self.key:
            for line in lines:
                try:
                    file, stamp, scores = parse_json(line)
                except (ValueError, TypeError):
                    continue  # a line that was cut short
                yield file, (stamp, scores)

    def __enter__(self) -> _KeptScores:
        """Write anew what is kept, so that the lines to come follow whole ones.

        Raises:
            ConfigError: a path that cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "w", encoding="utf-8", opener=no_link)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}); name a table with --out") from None
        self._file.write(self.key + "\n")
        for file, (stamp, scores) in self.scores.items():
            self._write(file, stamp, scores)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, folder: Path, file: str) -> list[float] | None:
        """The scores of an image that is as it was."""
        stamp, scores = self.scores.get(file, ("", None))
        return scores if scores is not None and stamp == _stamp(folder / file) else None

    def add(self, folder: Path, file: str, scores: list[float]) -> None:
        """Keep the scores of an image."""
        self.scores[file] = (_stamp(folder / file), scores)
        self._write(file, *self.scores[file])

    def _write(self, file: str, stamp: str, scores: list[float]) -> None:
        self._file.write(json.dumps([file, stamp, scores], ensure_ascii=False) + "\n")
        self._file.flush()

    def remove(self) -> None:
        """The table is there."""
        self.path.unlink(missing_ok=True)


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _write_table(
    out: Path, rows: Mapping[str, Sequence[float]], class_set: ClassSet, threshold: float
) -> tuple[dict[str, int], list[str]]:
    """Write the table; how many images each class was proposed for, and the images without one above the threshold."""
    names, counts, unsure = class_set.names[1:], Counter[str](), list[str]()
    with atomic_write(out, "w") as file:
        file.write("\ufeff")  # without it Excel takes UTF-8 for another encoding
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*COLUMNS, *(SCORE + name for name in names)])
        for image, scores in rows.items():
            chosen = [name for name, score in zip(names, scores, strict=True) if score >= threshold]
            if not chosen:
                unsure.append(image)
            counts.update(chosen)
            check = "" if chosen else f"nothing from {threshold:g} on; best: {names[int(np.argmax(scores))]}"
            table.writerow([image, ";".join(chosen), check, *scores])
    return {name: counts[name] for name in names}, unsure
