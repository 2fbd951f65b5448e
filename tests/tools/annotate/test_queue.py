"""Which masks go to an annotator, and in what order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weakclip.annotations import Shapes
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import ConfigError, RunError
from weakclip.inference.mask_statistics import STATISTICS, ImageStatistics, statistics_line
from weakclip.pipeline.context import open_run
from weakclip.store.files import write_json
from weakclip.store.lines import LineLog
from weakclip.store.marks import MARKS, Mark, MarkFile
from weakclip.tools.annotate import export_masks
from weakclip.tools.annotate.queue import queue


@pytest.fixture
def judged_run(folder_run: Path) -> Path:
    """A run with figures of two of its three images: the second lacks a class, the first has low confidence."""
    dataset = open_run(folder_run).train
    stage, colors = folder_run / "3_pseudo_masks", dataset.class_set.colors
    entries = [{"name": name, "color": color} for name, color in zip(dataset.class_set.names, colors, strict=True)]
    write_json(stage / "metrics.json", {"classes": entries})
    write_json(folder_run / "manifest.json", {"format": 2, "stages": {"pseudo_masks": {"key": "a", "done": True}}})
    log = LineLog(stage / STATISTICS)
    for name, shares, confidence in ((dataset.names[0], {0: 0.5, 1: 0.5}, 0.3), (dataset.names[1], {0: 1.0}, 0.9)):
        figures = ImageStatistics(name=name, size=(8, 8), labels=(1,), shares=shares, confidence=confidence)
        log.add(statistics_line(figures))
    return folder_run


def names_of(run: Path, *only: str) -> list[str]:
    context = open_run(run)
    return [context.train.names[each.index] for each in queue(context, only)]


def test_the_most_doubtful_come_first_with_their_reason(judged_run: Path) -> None:
    context = open_run(judged_run)
    first, second, third = context.train.names
    found = queue(context)
    assert names_of(judged_run) == [second, first, third]
    assert found[0].reason == f"no pixel of {context.train.class_set.names[1]}"
    assert (found[1].reason, found[2].doubt, found[2].reason) == ("lowest confidence", None, "")


def test_conditions(judged_run: Path) -> None:
    first, second, third = open_run(judged_run).train.names
    marks = MarkFile(judged_run / MARKS)
    marks.add(Mark(image=first, mark="bad"))
    marks.add(Mark(image=second, mark=None))
    path = judged_run / "3_pseudo_masks/masks" / f"{second}.png"
    write_mask(judged_run / "verified" / f"{second}.png", np.zeros_like(read_mask(path)), np.zeros((256, 3), np.uint8))
    assert names_of(judged_run, "bad") == [first]
    assert names_of(judged_run, "unmarked") == [second, third]
    assert names_of(judged_run, "unverified") == [first, third]
    assert names_of(judged_run, "unverified", "worst:1") == [first]
    assert names_of(judged_run, "worst:99") == [second, first, third]
    assert names_of(judged_run, "bad", "unmarked") == []


@pytest.mark.parametrize("words", [("worst",), ("worst:0",), ("worst:x",), ("good",), ("worst:1", "worst:2")])
def test_another_word_is_one_line(judged_run: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"only: bad, unmarked, unverified and one worst:N .*found"):
        queue(open_run(judged_run), words)


def test_tasks_are_few_and_scored(judged_run: Path, tmp_path: Path, call: Callable[..., int]) -> None:
    words = ("--format", "label-studio", "--only", "unverified,worst:2")
    assert call("export", "masks", judged_run, *words, "--out", tmp_path / "tasks.json") == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert len(tasks) == 2 and scores == sorted(scores)
    assert tasks[0]["data"]["reason"].startswith("no pixel of") and float(tasks[0]["data"]["doubt"]) >= 50
    with pytest.raises(RunError, match="no image is bad; nothing to export"):
        export_masks(judged_run, tmp_path / "b.json", "coco", Shapes(), only=["bad"])
