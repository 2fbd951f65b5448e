"""The files in which people write labels: `labels.csv`, `labels.jsonl` and `classes.yaml`."""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weakclip.classes import BACKGROUND, BACKGROUND_PROMPTS, ClassSet, voc_palette
from weakclip.errors import DataError

CLASS_KEYS = ("names", "prompts", "background_prompts", "colors")


@dataclass(frozen=True)
class LabelRow:
    """One image and its class names, as written.

    Args:
        image: path of the image below the image folder, with or without its extension.
        labels: class names; at least one.
        where: file and line, for messages.
    """

    image: str
    labels: tuple[str, ...]
    where: str


@contextlib.contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Turn what Python says of a text or CSV file in another form into one line that names it.

    Raises:
        DataError: not UTF-8, not a CSV file, or one that cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a readable file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None


def read_label_rows(path: Path) -> list[LabelRow]:
    """Rows of a CSV with the columns image and labels, or of JSON Lines `{"image": "…", "labels": ["…"]}`.

    In a CSV, labels are separated by `;` (or by `,` inside quotes), so that names may hold spaces:
    `cat; traffic light`. The columns are separated by a comma, a semicolon or a tab, as the header line is; columns of
    other names are passed over.

    Raises:
        DataError: another form, or a row without image or labels; with the line.
    """
    with reading_text(path), path.open(newline="", encoding="utf-8-sig") as file:
        return list(_json_rows(file, path) if path.suffix == ".jsonl" else _csv_rows(file, path))


def _csv_rows(lines: Iterable[str], path: Path) -> Iterator[LabelRow]:
    lines = iter(lines)
    header = next(lines, "")
    delimiter = next((mark for mark in "\t;," if mark in header), ",")
    columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    if not {"image", "labels"} <= set(columns):
        raise DataError(f"{path}, line 1: expected the columns image,labels; found {header.strip()!r}")
    reader = csv.reader(lines, delimiter=delimiter)
    for cells in reader:
        where = f"{path}, line {reader.line_num + 1}"
        if len(cells) > len(columns):
            raise DataError(
                f"{where}: {len(cells)} cells for {len(columns)} columns; separate labels by ';' inside quotes"
            )
        row = dict(zip(columns, cells, strict=False))
        if any(cell.strip() for cell in cells):
            yield _checked_row(row["image"], re.split("[;,]", row.get("labels", "")), where)


def _json_rows(lines: Iterable[str], path: Path) -> Iterator[LabelRow]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        labels = row.get("labels") if isinstance(row, dict) else None
        if not isinstance(labels, list) or not isinstance(row.get("image"), str):
            raise DataError(f'{where}: expected {{"image": "…", "labels": ["…"]}}')
        if not all(isinstance(label, str) for label in labels):
            raise DataError(f"{where}: labels are class names in quotes; found {labels}")
        yield _checked_row(row["image"], labels, where)


def _checked_row(image: str, labels: Iterable[str], where: str) -> LabelRow:
    names = tuple(label.strip() for label in labels if label.strip())
    if not image.strip():
        raise DataError(f"{where}: no image is named")
    if not names:
        raise DataError(f"{where}: image {image.strip()!r} has no labels; name its classes or take the row out")
    return LabelRow(image.strip(), names, where)


def class_set_of_names(names: Iterable[str]) -> ClassSet:
    """A class set of foreground names alone: prompts are the names with `_` as a space, and everyday backgrounds."""
    return _class_set(list(names), {}, None, {})


def read_class_file(path: Path) -> ClassSet:
    """A class set from `classes.yaml`.

    Keys: `names`, the foreground classes in the order of their mask indices 1, 2, …; and, each optional, `prompts`
    (class name: words for zero-shot use), `background_prompts` (list of words) and `colors` (class name: [r, g, b]).

    Raises:
        DataError: not YAML, an unknown key or class, or a value of another kind.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not _all_text(content.get("names")):
        raise DataError(f"{path}: expected `names:` with a list of class names; put quotes round numbers, yes and no")
    for key in content:
        if key not in CLASS_KEYS:
            near = difflib.get_close_matches(str(key), CLASS_KEYS, n=1)
            raise DataError(f"{path}: unknown key {key!r}; known: {', '.join(near or CLASS_KEYS)}")
    prompts, colors = content.get("prompts") or {}, content.get("colors") or {}
    if not isinstance(prompts, dict) or not isinstance(colors, dict) or not _all_text(list(prompts.values())):
        raise DataError(f"{path}: prompts are `class: words` and colors `class: [r, g, b]`")
    background = content.get("background_prompts")
    if background is not None and not _all_text(background):
        raise DataError(f"{path}: background_prompts is a list of words")
    try:
        return _class_set(content["names"], prompts, background, colors)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _class_set(
    names: list[str], prompts: Mapping[str, str], background: list[str] | None, colors: Mapping[str, Any]
) -> ClassSet:
    plain = ClassSet.from_foreground(names)
    for name in (*prompts, *colors):
        plain.index(name)
    triples = []
    for name, default in zip(plain.names, voc_palette(plain.num_classes).tolist(), strict=True):
        color = colors.get(name, default)
        if not isinstance(color, list) or not all(isinstance(value, int) for value in color):
            raise DataError(f"class {name!r}: a colour is [r, g, b], three numbers 0 to 255; found {color!r}")
        triples.append(tuple(color))
    if background is None:
        background = [word for word in BACKGROUND_PROMPTS if word not in names]
    return ClassSet(
        names=plain.names,
        prompts=(BACKGROUND, *(prompts.get(name, name.replace("_", " ")) for name in names)),
        background_prompts=tuple(background),
        colors=tuple(triples),
    )
