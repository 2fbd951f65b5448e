"""The table of proposed labels, and the scores that a stopped command has left."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakclip.clip import Encoder
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.image_folder import ImageFolder
from weakclip.errors import DataError, RunError
from weakclip.store.files import atomic_write, expand_home, write_json
from weakclip.store.forms import Form
from weakclip.store.outputs import copy_of, mirrored, sending, split_url
from weakclip.store.remote import RemoteFolder, file_at, folder_at, is_url
from weakclip.store.share import Merge, Shard, current, sharing
from weakclip.store.trees import AnyPath, StoredPath
from weakclip.store.untrusted_text import SHOWN, parse_json, some
from weakclip.tools.tag.scores import KeptScores, score_images
from weakclip.tools.tag.zero_shot import Tagger, TagSettings

COLUMNS = ("image", "labels", "check")
SCORE = "score: "
"""Before the name of a class: the column of its score. Readers of labels pass these columns over."""

SEPARATORS = ";,\t\n\r"


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """The proposed labels.

    Args:
        path: the table, or where it is at a URL.
        threshold: from which score on a class is proposed.
        images: how many images have a row.
        classes: class name → how many images it was proposed for.
        unsure: images without a class at or above the threshold; their labels are empty.
        unread: a line for every image that could not be read; it has no row.
        notes: sentences on other files that are left out.
    """

    path: AnyPath
    threshold: float
    images: int
    classes: dict[str, int]
    unsure: tuple[str, ...]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def tagging_lines(made: Tagging, folder: AnyPath) -> list[str]:
    """How often each class was proposed and which images to look at, for people."""
    counts = sorted(made.classes.items(), key=lambda pair: -pair[1])
    lines = [
        f"{made.path}: {made.images:,} images",
        "proposed: " + ", ".join(f"{name} ({count:,})" for name, count in counts[:SHOWN]),
        f"threshold: {made.threshold:g}; rows without a class from there on, left empty: {len(made.unsure):,}",
    ]
    if made.unsure:
        lines.append(f"empty, the column `check` names the best guess: {some(made.unsure, SHOWN)}")
    at_url = isinstance(made.path, StoredPath)
    first = f", and bring the table to {folder / 'labels.csv'}" if at_url else ""
    labels = "" if at_url or made.path == folder / "labels.csv" else f" --labels {shlex.quote(str(made.path))}"
    done = f"next: correct the column `labels`{first}, then weakclip init {shlex.quote(str(folder))}{labels}"
    return [*lines, *(f"note: {note}" for note in made.notes), done]


def write_labels(
    images: ImageFolder, out: Path | str, class_set: ClassSet, clip: Encoder, settings: TagSettings
) -> Tagging | None:
    """Write a table of labels that `read_label_rows` reads: a row an image, with its classes and all their scores.

    Every class at or above the threshold is proposed. An image without one gets no label, and its `check` column names
    its best class: a run leaves it out until somebody has tagged it. Scores are kept beside the table until that is
    there: a stopped command goes on. Processes that work together share the images, and the table is the same.

    Args:
        images: the images.
        out: the table, or its URL; it is replaced. At a URL scores are kept in `NAME.partial/` until it is there.
        class_set: the classes.
        clip: the encoder.
        settings: see `TagSettings`.

    Returns:
        The labels; None in a shard, which scores its own images: `merge_labels` writes the table.

    Raises:
        StorageError: a path that cannot be written.
        RemoteError, RunError, FolderInUseError: of a URL, as `weakclip.store.outputs.mirrored`.
        DataError: a class name that cannot stand in a table, or no image that can be read.
    """
    for name in class_set.names:
        if any(mark in name for mark in SEPARATORS):
            raise DataError(
                f"class {name!r}: a name with ; or , cannot stand in a table of labels; put commas between names, or "
                "take another one"
            )
    assert isinstance(images.folder, Path), "images are tagged in a folder of the disk"
    key, share, size = _key(class_set, clip, settings), current(), settings.batch_size
    names, made = class_set.names[1:], list[Tagging]()
    with _place(out) as table:
        share.wait()
        if isinstance(share, Shard) or (is_url(out) and share.is_main):
            shards = share.count if isinstance(share, Shard) else 1
            folder = images.folder.resolve()
            root = folder.parent if folder.name == "images" else folder  # as `ImageFolder` looks for them
            request = {"folder": str(root), "names": names, "threshold": settings.threshold}
            write_json(_plan_of(table), {"shards": shards, "key": key, "batch_size": size, **request})
        kept = KeptScores(table, key, images.folder)
        with sending():
            score_images(kept, images.files, lambda: Tagger(clip, class_set, settings), batch_size=size)
        share.once(lambda: made.append(_write(images, table, names, kept, settings.threshold, out=out)))
    return share.tell(made[0] if made else None)


@contextlib.contextmanager
def _place(out: Path | str) -> Iterator[Path]:
    """The table on this machine; of a URL, in a copy of the folder beside it that is there while it is made."""
    url, share = f"{out}.partial", current()
    if not is_url(out):
        yield expand_home(out)
    elif share.is_main:
        name = split_url(str(out))[1]
        scores, plan = frozenset({f"{name}.partial"}), _plan_of(Path(name)).name
        form = Form("scores of a table", plan, results=scores, others=frozenset({name}))
        with mirrored(url, share.name if isinstance(share, Shard) else "", form=form) as folder:
            yield folder / name
    else:
        yield copy_of(url) / Path(out).name


def is_sharded(out: Path | str) -> bool:
    """Whether a table is being made in shards there."""
    return file_at(f"{out}.partial/{_plan_of(Path(out)).name}" if is_url(out) else _plan_of(expand_home(out))).is_file()


def merge_labels(out: Path | str) -> Tagging:
    """Prove that all shards have scored their images, and write the table as one process does.

    Args:
        out: the table, or its URL.

    Raises:
        RunError: images are missing: those and their shards are named.
        DataError: no image that can be read.
    """
    with _place(out) as table:
        try:
            plan = parse_json(_plan_of(table).read_text(encoding="utf-8"))
            images = ImageFolder(Path(plan["folder"]))
            assert isinstance(images.folder, Path)
            kept = KeptScores(table, str(plan["key"]), images.folder)
            shards, size, names, threshold = (plan[key] for key in ("shards", "batch_size", "names", "threshold"))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunError(f"{_plan_of(table)}: cannot be read ({error}); run all shards again") from None
        with sharing(Merge(shards=int(shards))):
            score_images(kept, images.files, _no_tagger, batch_size=int(size))
        return _write(images, table, names, kept, float(threshold), out=out)


def _no_tagger() -> Tagger:
    raise AssertionError("a merge scores no image")


def _plan_of(out: Path) -> Path:
    """Beside a table that is made in shards: how many there are, and what `merge_labels` needs."""
    return out.with_name(f"{out.name}.shards.json")


def _write(
    images: ImageFolder, table: Path, names: Sequence[str], kept: KeptScores, threshold: float, *, out: Path | str
) -> Tagging:
    """The table, of all scores, at its place; nothing is left of what was kept."""
    kept.refresh()
    found = {file: kept.find(file) for file in images.files}
    rows = {file: scores for file, scores in found.items() if isinstance(scores, list)}
    unread = [wrong for wrong in found.values() if isinstance(wrong, str)]
    if not rows:
        kept.remove()
        raise DataError(f"{images.folder}: no image can be read, the first: {unread[0]}")
    counts, unsure = _write_table(table, rows, names, threshold)
    if is_url(out):
        RemoteFolder(split_url(str(out))[0]).put(table.name, table)
        table.unlink()
    kept.remove()
    _plan_of(table).unlink(missing_ok=True)
    return Tagging(
        path=folder_at(out),
        threshold=threshold,
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


def _write_table(
    out: Path, rows: Mapping[str, Sequence[float]], names: Sequence[str], threshold: float
) -> tuple[dict[str, int], list[str]]:
    """Write the table; how many images each class was proposed for, and the images without one above the threshold."""
    counts, unsure = Counter[str](), list[str]()
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
