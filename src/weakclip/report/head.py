"""The head of the report: what was run, on what, and when."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from weakclip import __version__
from weakclip.report.folder import RunSummary
from weakclip.store.layout import CONFIG, MANIFEST
from weakclip.store.untrusted_text import parse_yaml

_CLASSES = 12  # that are named


def head_facts(run: RunSummary) -> list[tuple[str, str]]:
    """Words and their values; what a run folder does not say is left out."""
    config = _mapping(_config(run.config))
    data, clip = _mapping(config.get("data")), _mapping(config.get("clip"))
    facts = [("Data set", _data(data)), ("Encoder", str(clip.get("source") or ""))]
    facts += [("Classes", _classes([name for name, _ in run.classes[1:]]))]
    made = datetime.fromtimestamp((run.folder / MANIFEST).stat().st_mtime, UTC)
    facts += [("Date", f"{made:%Y-%m-%d %H:%M} UTC, weakclip {__version__}")]
    if run.config:
        again = ["weakclip", "run", f"{run.folder.resolve().name}/{CONFIG}", "--out", "again"]
        facts += [("Command", shlex.join(again))]
    return [(word, value) for word, value in facts if value]


def _config(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _data(data: Mapping[str, Any]) -> str:
    if not data.get("dataset"):
        return ""
    where = f" in {data['root']}" if data.get("root") else ""
    splits = []
    for split in ("train", "val"):
        name, limit = data.get(f"{split}_split"), data.get(f"{split}_limit")
        splits += [f"{name}, its first {limit:,} images" if isinstance(limit, int) else str(name)] if name else []
    return f"{data['dataset']}{where}" + (f" ({'; '.join(splits)})" if splits else "")


def _classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)}: {', '.join(names[:_CLASSES])}" + (", …" if len(names) > _CLASSES else "")
