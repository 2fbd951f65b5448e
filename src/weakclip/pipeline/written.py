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
    """Write scores into `metrics.json` and the log, with how the true masks came about where that need be said; in one
    process."""
    for score in scores:
        told = {name: getattr(score, name) for name in ("subject", "split", "crf", "mean_iou")}
        append_json(folder / "log.jsonl", told)
    data, splits = context.config.data, [split for split in (context.train, context.val) if split and split.truth]
    truth = {"truth": {split.split: split.truth for split in splits}} if splits else {}
    notes = {**truth, **context.left_out(data.train_split, data.val_split)}
    write_scores(folder / "metrics.json", scores, notes=notes)
