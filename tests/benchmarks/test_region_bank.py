"""The benchmark of the region bank: its scores on a tiny run, and the wrong tags that it plants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from by_path import load_script

from weakclip.config import parse_config
from weakclip.datasets.scenes import ScenesDataset
from weakclip.pipeline import run_stage
from weakclip.store.marks import read_marks

benchmark = load_script("benchmarks/region_bank.py")


def test_a_tenth_of_the_tags_is_wrong_in_three_ways(tmp_path: Path) -> None:
    dataset = ScenesDataset("train", size=64, count=60)
    benchmark.plant(dataset, 60, tmp_path / "wrong.jsonl")
    marks, torn = read_marks(tmp_path / "wrong.jsonl")
    assert (len(marks), torn) == (6, 0)
    sizes = []
    for name, mark in marks.items():
        new = set(dataset.class_set.foreground_indices(mark.labels or ()))
        old = set(dataset.labels(dataset.index_of(name)))
        assert new and new != old
        sizes.append((len(new - old), len(old - new)))
    assert sorted(sizes) == [(0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)]


def test_masks_and_tags_are_scored(tiny_settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = tmp_path / "wrong.jsonl"
    benchmark.plant(ScenesDataset("train", size=64, count=30), 30, marks)
    marks.write_text("".join(marks.read_text().splitlines(keepends=True)[:1]))
    settings, run = tiny_settings(dataset="scenes", train_limit=30, scene_size=64, marks=str(marks)), tmp_path / "run"
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(parse_config(settings, origin="tiny"), run, stage)
    benchmark.main([str(run), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in said if "look wrong" not in line]  # nobody promises any of so small a run
    assert names == ["without", *(f"agreement {value}" for value in benchmark.AGREEMENTS), "tags, first"]
    assert said[0].endswith("difference +0.00 to +0.00, masks changed 0")
    assert "of 30 images" in said[-1]
