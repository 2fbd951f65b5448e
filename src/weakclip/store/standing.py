"""Whether the results in a run folder belong together, told from the records in its manifest.

A `--redo` that was stopped leaves new results of some stages beside older ones of others, and so does the command of
one stage. Nothing is lost by that, but a network and masks may then be of different settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weakclip.store.layout import CONFIG, STAGE_FOLDERS
from weakclip.store.manifest import PREVIOUS, read_records


def outdated(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The finished stages whose result was made of others than the folder has now, in the order of the stages.

    A network of an earlier configuration that retrained one, which the evaluation passes over, is none of them.

    Args:
        records: stage → record of its result, as `read_records` gives them.

    >>> seeds, masks = {"key": "b", "done": True}, {"key": "c", "done": True, "inputs": {"seeds": "a"}}
    >>> outdated({"seeds": seeds, "pseudo_masks": masks})
    ['pseudo_masks']
    """
    found: list[str] = []
    for stage in STAGE_FOLDERS:
        record = records.get(stage, {})
        upstream = {name: key for name, key in record.get("inputs", {}).items() if name in STAGE_FOLDERS}
        changed = any(name in found or records.get(name, {}).get("key") != key for name, key in upstream.items())
        if record.get("done") and changed:
            found.append(stage)
    evaluation = records.get("evaluate", {})
    retrains = "evaluate" in found or not evaluation.get("done") or "retrain" in evaluation.get("inputs", {})
    return found if retrains else [stage for stage in found if stage != "retrain"]


def mixture(folder: Path) -> str:
    """One line about a run folder whose results do not belong together; empty where they do.

    Raises:
        RunError: the manifest cannot be read.
    """
    records = read_records(folder)
    old = outdated(records)
    unfinished = [stage for stage in STAGE_FOLDERS if not records.get(stage, {}).get("done")]
    remade = [stage for stage in unfinished if (folder / f"{STAGE_FOLDERS[stage]}{PREVIOUS}").is_dir()]
    if not old and not remade:
        return ""
    said = [f"{_named(remade)} being made again and not finished"] if remade else []
    said += [f"{_named(old)} made of earlier results than are there now"] if old else []
    full = " --full" if any(stage.endswith("_truth") for stage in (*old, *remade)) else ""
    command = f"weakclip run {folder / CONFIG} --out {folder} --redo{full}"
    return f"{folder}: results that do not belong together: {'; '.join(said)}; `{command}` goes on"


def _named(stages: list[str]) -> str:
    """The folders of some stages, as the subject of a sentence."""
    return ", ".join(STAGE_FOLDERS[stage] for stage in stages) + (" is" if len(stages) == 1 else " are")
