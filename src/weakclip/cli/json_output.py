"""`--json`: what a command found as one JSON object on standard output, for scripts. See docs/scripting.md.

What is told meanwhile, and the one line of an error, go to standard error, as without `--json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from weakclip.cli.parts import finished
from weakclip.errors import WeakCLIPError
from weakclip.store.untrusted_text import one_line

if TYPE_CHECKING:
    from weakclip.pipeline import RunResult
    from weakclip.prediction import PredictionSummary
    from weakclip.study import CRFStudy, VariantStudy

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, and nothing else there.")]

Result = TypeVar("Result")


def answer(
    work: Callable[[], Result],
    *,
    json: bool,
    record: Callable[[Result], dict[str, Any]],
    show: Callable[[Result], None],
) -> Result:
    """Do the work of a command and say what came of it.

    Args:
        work: all that may fail, the reading of the configuration too.
        json: whether a JSON object is asked for.
        record: from the result to that object.
        show: says it to people instead.

    Raises:
        WeakCLIPError: what `work` raises; with `json`, `{"error": …}` is on standard output before.
    """
    try:
        result = finished(work)
    except WeakCLIPError as error:
        if json:
            _echo({"error": {"type": type(error).__name__, "message": one_line(str(error))}})
        raise
    if json:
        _echo(record(result))
    else:
        show(result)
    return result


def _echo(value: dict[str, Any]) -> None:
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """Paths as text, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_record(result: RunResult) -> dict[str, Any]:
    """A run: its folder and report, stages that ran now and that were skipped, warnings, scores, chosen network."""
    from weakclip.store.layout import STAGE_FOLDERS

    stages = [stage for stage in STAGE_FOLDERS if stage in (*result.ran, *result.skipped)]
    return {
        "folder": result.folder,
        "report": result.report,
        "ran": result.ran,
        "skipped": result.skipped,
        "left_out": result.left_out,
        "warnings": result.warnings,
        "stage_folders": {stage: result.folder / STAGE_FOLDERS[stage] for stage in stages},
        "scores": [asdict(score) for score in result.scores],
        "network": asdict(result.chosen) if result.chosen else None,
    }


def prediction_record(summary: PredictionSummary) -> dict[str, Any]:
    """Predictions: numbers of images, of those made now, made before, and unreadable; and the list of the last."""
    from weakclip.prediction.folder import ERRORS

    counts = {name: getattr(summary, name) for name in ("images", "predicted", "kept", "failed")}
    return {"folder": summary.out, **counts, "errors": summary.out / ERRORS if summary.failed else None}


def variant_record(study: VariantStudy) -> dict[str, Any]:
    """A study of variants: of each, the scores of all random seeds, their mean and standard deviation."""
    from weakclip.study.results import mean_and_deviation

    rows = []
    for variant in study.variants:
        results = study.of(variant)
        mean, deviation = mean_and_deviation([result.mean_iou for result in results])
        each = [asdict(result) for result in results]
        rows.append({"variant": variant, "mean_iou": mean, "standard_deviation": deviation, "results": each})
    tuning_set = {"split": study.split, "images": study.images}
    return {"subject": study.subject, "tuning_set": tuning_set, "variants": rows, **_study_files(study.folder)}


def crf_record(study: CRFStudy) -> dict[str, Any]:
    """A search of the dense CRF: the best candidate and the configuration's own."""
    from weakclip.study.pages import BEST

    def candidate(number: int) -> dict[str, Any]:
        return {**asdict(study.candidates[number]), "mean_iou": study.rungs[-1].scores[number]}

    return {
        "tuning_set": {"split": study.split, "images": study.images},
        "candidates": len(study.candidates),
        "best": candidate(study.standing()[0]),
        "config": candidate(0),
        **_study_files(study.folder, {"yaml": BEST}),
    }


def _study_files(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    from weakclip.study.pages import CHART, TABLE

    files = {"table": TABLE, "chart": CHART, **(more or {})}
    return {"folder": folder, "files": {what: folder / name for what, name in files.items()}}
