"""The study of a training's kept steps: each is scored by its own masks, and a choice among them is called tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weakclip.config import RunConfig, load_config
from weakclip.errors import RunError
from weakclip.inference.evaluation import score_masks
from weakclip.pipeline import run_stage
from weakclip.pipeline.context import open_run
from weakclip.study import study_snapshots


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> RunConfig:
    settings = tiny_settings()
    settings["train"] = {**settings["train"], "keep_every": 2, "learning_rate": 0.05, "ema_decay": 0.0}
    settings["retrain"] = {"model": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return load_config(tmp_path / "config.yaml")


def test_every_kept_step_is_scored_by_its_own_masks(config: RunConfig, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "study"
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(config, run, stage)
    study = study_snapshots(config, out, run=run)
    assert study.variants == ("step_2", "step_4") and len(study.results) == 2
    (own,) = score_masks(run / "3_pseudo_masks/masks", open_run(run).train, subject="pseudo masks")
    last, earlier = study.find("step_4", 0), study.find("step_2", 0)
    assert last is not None and earlier is not None
    assert last.mean_iou == own.mean_iou  # the last step is the result of a training without averages
    masks = [
        sorted(path.read_bytes() for path in (out / f"variants/{name}/masks").iterdir()) for name in study.variants
    ]
    assert masks[0] != masks[1]
    text = (out / "table.md").read_text()
    assert "has tuned on that split" in text and "its masks have used pixel labels" in text
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    record = (out / "study.json").read_text()
    assert study_snapshots(config, out, run=run).results == study.results
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    assert (out / "study.json").read_text() == record and json.loads(record)["tuning_set"]["images"] == 6


def test_a_run_without_kept_steps_is_told(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"2_train: keeps no weights by step; train with train\.keep_every"):
        study_snapshots(config, tmp_path / "study", run=tmp_path / "run")
    assert not (tmp_path / "study").exists()
