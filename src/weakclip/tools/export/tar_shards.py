"""Images, masks and labels in tars, as WebDataset reads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from weakclip.datasets.class_files import CLASS_FILE
from weakclip.datasets.classes import ClassSet
from weakclip.store.files import atomic_write


def write_tar(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], class_set: ClassSet) -> None:
    """Write a tar that holds, of each image, `NUMBER.ENDING`, `NUMBER.mask.png` and `NUMBER.json`.

    Equal rows give equal bytes.

    Args:
        path: the file; it appears whole or not at all.
        rows: number and row of each image; a row has `image` and `mask`, each `{bytes, path}`, `labels`, class
            indices, and `name`.
        class_set: the classes.
    """
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, row in rows:
            told = {"name": row["name"], "labels": [class_set.names[label] for label in row["labels"]]}
            members = {
                Path(row["image"]["path"]).suffix: row["image"]["bytes"],
                ".mask.png": row["mask"]["bytes"],
                ".json": json.dumps(told, ensure_ascii=False).encode(),
            }
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{number:08d}{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_class_names(folder: Path, class_set: ClassSet) -> None:
    """Write `classes.yaml` with the names of the classes, so that `data.dataset: shards` numbers them alike."""
    with atomic_write(folder / CLASS_FILE, "w") as file:
        yaml.safe_dump({"names": list(class_set.names[1:])}, file, allow_unicode=True, sort_keys=False)
