"""The masks that a run gave to annotation tools: nobody drew what comes back as one of them, however old the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from weakclip.errors import StorageError
from weakclip.store.files import append_json
from weakclip.store.lines import read_lines

logger = logging.getLogger("weakclip")

EXPORTED = "exported.jsonl"
"""In a run folder: a line for each mask that was exported, with its image and the digest of its pixels."""


def read_exported(run: Path) -> dict[str, set[str]]:
    """Image → digests of all masks of it that were exported; empty where there was no export."""
    known: dict[str, set[str]] = {}
    for entry in read_lines(run / EXPORTED):
        known.setdefault(entry["name"], set()).add(str(entry.get("mask")))
    return known


def note_exported(run: Path, digests: Mapping[str, str]) -> None:
    """Note the masks of an export, image → digest; a run folder that cannot be written is told in the log."""
    known = read_exported(run)
    new = {name: digest for name, digest in digests.items() if digest not in known.get(name, ())}
    try:
        for name, digest in new.items():
            append_json(run / EXPORTED, {"name": name, "mask": digest})
    except StorageError as error:
        logger.warning("%s; after the next run these masks will count as drawn by a person when they come back", error)
