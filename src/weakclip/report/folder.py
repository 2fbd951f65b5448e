"""Reads a run folder back from its files. Missing parts are left out, never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakclip.errors import DataError, RunError
from weakclip.inference.evaluation import Scores
from weakclip.store.files import check_inside
from weakclip.store.layout import ERRORS, MANIFEST, STAGE_FOLDERS
from weakclip.store.manifest import read_records
from weakclip.store.paths import check_run
from weakclip.store.standing import mixture
from weakclip.store.untrusted_text import parse_json

CURVE_POINTS = 300


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Numbers logged while a network was trained: `series[name][i]` belongs to `steps[i]`."""

    stage: str
    steps: tuple[float, ...]
    series: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One line of the picture sheet: `pictures` maps a caption to a PNG file."""

    name: str
    split: str
    labels: tuple[str, ...]
    pictures: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """How one stage stands: whether it is finished, its seconds, and whether its inputs have changed since."""

    name: str
    folder: str
    done: bool
    seconds: float
    stale: bool


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Everything that the report and the results table show.

    `classes` are names and their colours as `#rrggbb`, `left_out` counts the lines of `errors.jsonl`, `verified` the
    masks that a person has drawn or approved, and `warnings` are what the stages have warned of, a line each.
    """

    folder: Path
    config: str
    stages: tuple[StageSummary, ...]
    scores: tuple[Scores, ...]
    curves: tuple[Curves, ...]
    classes: tuple[tuple[str, str], ...]
    rows: tuple[PictureRow, ...]
    left_out: int
    verified: int
    warnings: tuple[str, ...]


def read_run(folder: Path | str) -> RunSummary:
    """Read a run folder, finished or not.

    Args:
        folder: what `weakclip run --out` was given.

    Returns:
        The summary; stages that have not run are absent from it.

    Raises:
        RunError: the folder is no run folder, or one of its JSON files cannot be read.
    """
    folder = Path(folder)
    check_run(folder, MANIFEST)
    records = read_records(folder)
    present = [stage for stage in STAGE_FOLDERS if stage in records]
    sheet = folder / STAGE_FOLDERS["evaluate"] / "pictures.json"
    note = read_json(folder / STAGE_FOLDERS["pseudo_masks"] / "metrics.json")
    try:
        classes, rows = _sheet(folder, read_json(sheet), note)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{sheet}: not written by weakclip ({error!r}); delete its folder and run `evaluate`") from None
    stages, mixed = tuple(_stage(stage, records) for stage in present), mixture(folder)
    stale = any(stage.stale for stage in stages if stage.name == "pseudo_masks")
    return RunSummary(
        folder=folder,
        config=_text(folder / "config.yaml", folder),
        stages=stages,
        scores=tuple(_scores(folder, present)),
        curves=tuple(filter(None, (_curves(folder, stage) for stage in present))),
        classes=classes,
        rows=rows,
        left_out=len(_text(folder / ERRORS, folder).splitlines()),
        verified=count if isinstance(count := note.get("verified"), int) else 0,
        warnings=(*([mixed] if mixed else []), *(() if stale else _warnings(note))),
    )


def _warnings(note: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines under `warnings` in a stage's metrics; anything else there is passed over."""
    lines = note.get("warnings")
    return tuple(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ()


def _text(path: Path, folder: Path) -> str:
    """A text file of the run; nothing where it is missing. Others see the report: no link leads out of the run."""
    if not path.is_file():
        return ""
    _check_link(path, folder)
    return path.read_text(encoding="utf-8", errors="replace")


def _check_link(path: Path, folder: Path) -> None:
    try:
        check_inside(path, folder)
    except DataError as error:
        raise RunError(str(error)) from None


def _sheet(
    folder: Path, sheet: Mapping[str, Any], note: Mapping[str, Any]
) -> tuple[tuple[tuple[str, str], ...], tuple[PictureRow, ...]]:
    """Classes and rows of `pictures.json`; before there is one, the classes of the masks."""
    classes = (
        (str(entry["name"]), "#{:02x}{:02x}{:02x}".format(*entry["color"]))
        for entry in sheet.get("classes") or note.get("classes", ())
    )
    return tuple(classes), tuple(_row(folder, row) for row in sheet.get("rows", ()))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run; empty where there is no such file.

    Raises:
        RunError: the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); delete its folder and run the stage again") from None
    return value if isinstance(value, dict) else {}


def _stage(stage: str, records: Mapping[str, Any]) -> StageSummary:
    record = records[stage]
    upstream = {name: key for name, key in record.get("inputs", {}).items() if name in STAGE_FOLDERS}
    return StageSummary(
        name=stage,
        folder=STAGE_FOLDERS[stage],
        done=record.get("done", False),
        seconds=float(record.get("seconds", 0.0)),
        stale=any(records.get(name, {}).get("key") != key for name, key in upstream.items()),
    )


def _scores(folder: Path, stages: Iterable[str]) -> Iterable[Scores]:
    for stage in stages:
        if stage.startswith("evaluate"):
            for entry in read_json(folder / STAGE_FOLDERS[stage] / "metrics.json").get("scores", ()):
                try:
                    yield Scores(**entry)
                except TypeError as error:
                    path = folder / STAGE_FOLDERS[stage]
                    raise RunError(f"{path}/metrics.json: no scores of this version ({error}); delete {path}") from None


def _curves(folder: Path, stage: str) -> Curves | None:
    """The numbers of `log.jsonl`, averaged into at most `CURVE_POINTS` points; a torn last line is passed over."""
    path = folder / STAGE_FOLDERS[stage] / "log.jsonl"
    if not path.is_file():
        return None
    entries: dict[float, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and _is_number(entry.get("step")) and _is_number(entry.get("loss")):
            entries[float(entry["step"])] = entry
    if not entries:
        return None
    ordered = [entries[step] for step in sorted(entries)]
    names = [name for name, value in ordered[-1].items() if name == "loss" or name.endswith("_loss")]
    size = max(1, math.ceil(len(ordered) / CURVE_POINTS))
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return Curves(
        stage=stage,
        steps=tuple(_mean(group, "step") for group in groups),
        series={name: tuple(_mean(group, name) for group in groups) for name in names},
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mean(group: Iterable[Mapping[str, Any]], name: str) -> float:
    values = [float(entry[name]) for entry in group if _is_number(entry.get(name))]
    return sum(values) / len(values) if values else math.nan


def _row(folder: Path, row: Mapping[str, Any]) -> PictureRow:
    base = folder / STAGE_FOLDERS["evaluate"]
    pictures = {caption: base / "pictures" / Path(file).name for caption, file in row["pictures"].items()}
    for path in pictures.values():
        _check_link(path, folder)
    return PictureRow(
        name=str(row["name"]),
        split=str(row["split"]),
        labels=tuple(map(str, row["labels"])),
        pictures={caption: path for caption, path in pictures.items() if path.is_file()},
    )
