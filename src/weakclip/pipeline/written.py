"""Writes the figures of a finished stage: those of a training, or rows of the results table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from weakclip.inference.evaluation import Scores, write_scores
from weakclip.pipeline.context import RunContext
from weakclip.store.files import append_json, write_json
from weakclip.training.processes import write_once
from weakclip.training.settings import TrainResult


def write_training(context: RunContext, folder: Path, result: TrainResult) -> None:
    """Write the `metrics.json` of a training."""
    metrics = {**dataclasses.asdict(result), **context.left_out(context.train.split)}
    write_once(lambda: write_json(folder / "metrics.json", metrics), context.device)


def finish_scores(context: RunContext, folder: Path, scores: Sequence[Scores]) -> None:
    """Write scores into `metrics.json` and the log."""
    for score in scores:
        told = {name: getattr(score, name) for name in ("subject", "split", "crf", "mean_iou")}
        append_json(folder / "log.jsonl", told)
    data = context.config.data
    write_scores(folder / "metrics.json", scores, left_out=context.left_out(data.train_split, data.val_split))
