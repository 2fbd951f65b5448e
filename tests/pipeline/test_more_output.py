"""More files beside a finished result: they are added, and what is there stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from folders import bytes_in, times_in

from weakclip.config import RunConfig, load_config
from weakclip.inference.mask_statistics import STATISTICS
from weakclip.pipeline import run_pipeline

MASKS = "3_pseudo_masks/masks"
CONFIDENCE = "3_pseudo_masks/confidence"


@pytest.fixture
def confident(config_file: Path) -> RunConfig:
    return load_config(config_file, ["pseudo_masks.confidence=true"])


def test_confidence_maps_are_added_to_a_finished_run(config_file: Path, confident: RunConfig, ran: Path) -> None:
    before, figures = times_in(ran), (ran / "3_pseudo_masks" / STATISTICS).read_bytes()
    assert run_pipeline(confident, ran).ran == ("pseudo_masks",)
    touched = {name for name, time in times_in(ran).items() if before.get(name) != time}
    assert {name.split("/")[0] for name in touched} == {"3_pseudo_masks"}
    assert len([name for name in touched if name.startswith(CONFIDENCE)]) == 6
    assert not [name for name in touched if name.startswith((MASKS, "3_pseudo_masks/strips/train"))]
    assert (ran / "3_pseudo_masks" / STATISTICS).read_bytes() == figures and figures.count(b"\n") == 6
    assert run_pipeline(confident, ran).ran == ()
    assert run_pipeline(load_config(config_file), ran).ran == ()


def test_confidence_maps_are_those_of_masks_that_are_made_with_them(
    confident: RunConfig, ran: Path, tmp_path: Path
) -> None:
    together = Path(shutil.copytree(ran, tmp_path / "together"))
    shutil.rmtree(together / MASKS)
    for run in (ran, together):
        run_pipeline(confident, run)
    assert bytes_in(ran / CONFIDENCE) == bytes_in(together / CONFIDENCE)
    assert bytes_in(ran / MASKS) == bytes_in(together / MASKS)


def test_pictures_are_added_to_a_finished_run(config_file: Path, ran: Path) -> None:
    before, evaluated = times_in(ran), ran / "5_evaluate"
    figures, scores = (evaluated / STATISTICS).read_bytes(), (evaluated / "metrics.json").read_bytes()
    assert run_pipeline(load_config(config_file, ["evaluate.pictures=4"]), ran).ran == ("evaluate",)
    touched = {name for name, time in times_in(ran).items() if before.get(name) != time}
    assert {name.split("/")[0] for name in touched} == {"5_evaluate"}
    assert not [name for name in touched if "/masks/" in name]
    assert [row["split"] for row in json.loads((evaluated / "pictures.json").read_text())["rows"]] == [
        *["train"] * 4,
        *["val"] * 3,
    ]
    assert (evaluated / STATISTICS).read_bytes() == figures and figures.count(b"\n") == 6
    assert (evaluated / "metrics.json").read_bytes() == scores
