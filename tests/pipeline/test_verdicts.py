"""Laws of the review's marks in a run: they change what it trains on, redo exactly what is concerned, and say why."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weakclip.config import RunConfig, load_config
from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import DataError, RunError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.pipeline.verdicts import ReviewedImages, read_review
from weakclip.store.marks import MARKS, Mark, MarkFile
from weakclip.training.dataset import TrainingPairs

FOLDERS = ("1_seeds", "2_train", "3_pseudo_masks", "4_retrain", "5_evaluate")
NAMES = tuple(f"train_{number:06d}" for number in range(6))
Trained = dict[str, set[str]]


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Folder of the masks → names of the images that were trained on with them."""
    seen: Trained = {}
    ask = TrainingPairs.__getitem__

    def noted(self: TrainingPairs, key: tuple[int, int]) -> dict[str, Any]:
        pair = ask(self, key)
        seen.setdefault(self.mask_folder.parent.name, set()).add(pair["name"])
        return pair

    monkeypatch.setattr(TrainingPairs, "__getitem__", noted)
    return seen


def mark(path: Path, name: str, verdict: str | None, labels: tuple[str, ...] | None = None, **more: Any) -> None:
    MarkFile(path).add(
        Mark(image=name, mark=verdict, labels=labels, time=str(path.stat().st_size) if path.exists() else "0", **more)
    )


def changed(folder: Path, run: Callable[[], object]) -> set[str]:
    """Stage folders in which anything was written."""

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("[1-5]_*/**/*.*")}

    before = times()
    run()
    after = times()
    return {path.relative_to(folder).parts[0] for path, time in after.items() if before.get(path) != time}


def refused(config: RunConfig, folder: Path, what: str) -> None:
    """Nobody has asked for new results."""
    with pytest.raises(RunError, match=what + ".*--redo"):
        run_pipeline(config, folder)


def test_bad_masks_are_left_out_of_the_last_training_alone(
    config: RunConfig, ran: Path, trained_on: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    for name in NAMES[:4]:
        mark(ran / MARKS, name, "bad")
    mark(ran / MARKS, NAMES[4], "good")
    assert (
        changed(ran, lambda: refused(config, ran, r"retrain \(data \(masks marked bad\) changed\), evaluate;")) == set()
    )
    with caplog.at_level(logging.INFO, "weakclip"):
        assert changed(ran, lambda: run_pipeline(config, ran, redo=True)) == {"4_retrain", "5_evaluate"}
    assert trained_on == {"3_pseudo_masks": set(NAMES[4:])}
    assert "retrain: runs again, because data (masks marked bad) changed" in caplog.text
    assert "retrain: 4 of 6 masks are marked bad and left out" in caplog.text
    assert json.loads((ran / "4_retrain/left_out.json").read_text()) == list(NAMES[:4])
    assert json.loads((ran / "5_evaluate/metrics.json").read_text())["scores"][1]["images"] == 6


def test_relabelled_images_are_seeded_and_masked_by_their_new_labels(
    config: RunConfig, ran: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = ScenesDataset("train", size=64, count=6)
    given = dataset.labels(0)
    other = next(number for number in range(1, 13) if number not in given)
    seeds = {name: (ran / f"1_seeds/dense/{name}.png").read_bytes() for name in NAMES}
    mark(ran / MARKS, NAMES[0], "relabel", (dataset.class_set.names[other],))
    assert (
        changed(ran, lambda: refused(config, ran, r"seeds \(data \(labels from the review\) changed\), train")) == set()
    )
    with caplog.at_level(logging.INFO, "weakclip"):
        assert changed(ran, lambda: run_pipeline(config, ran, redo=True)) == set(FOLDERS)
    for stage in ("seeds", "pseudo_masks"):
        assert f"{stage}: runs again, because data (labels from the review) changed" in caplog.text
    for folder in ("1_seeds/dense", "3_pseudo_masks/masks"):
        found = set(np.unique(read_mask(ran / folder / f"{NAMES[0]}.png")).tolist())
        assert found <= {0, other}
    assert {name for name in NAMES if (ran / f"1_seeds/dense/{name}.png").read_bytes() != seeds[name]} == {NAMES[0]}


def test_image_that_shows_no_class_becomes_background(config: RunConfig, ran: Path) -> None:
    mark(ran / MARKS, NAMES[2], "relabel", ())
    run_stage(config, ran, "seeds", redo=True)
    assert not read_mask(ran / f"1_seeds/masks/{NAMES[2]}.png").any()


def test_marks_that_change_nothing_redo_nothing(config: RunConfig, ran: Path) -> None:
    dataset = ScenesDataset("train", size=64, count=6)
    mark(ran / MARKS, NAMES[0], "good")
    mark(ran / MARKS, NAMES[1], "bad")
    mark(ran / MARKS, NAMES[1], None)
    mark(ran / MARKS, NAMES[2], "relabel", tuple(dataset.class_set.names[label] for label in dataset.labels(2)))
    mark(ran / MARKS, "no such image", "bad")
    assert changed(ran, lambda: run_pipeline(config, ran)) == set()


def test_taken_back_marks_give_the_first_result_again(config: RunConfig, ran: Path) -> None:
    weights = (ran / "4_retrain/model.safetensors").read_bytes()
    mark(ran / MARKS, NAMES[0], "bad")
    run_pipeline(config, ran, redo=True)
    assert (ran / "4_retrain/model.safetensors").read_bytes() != weights
    mark(ran / MARKS, NAMES[0], None)
    run_pipeline(config, ran, redo=True)
    assert (ran / "4_retrain/model.safetensors").read_bytes() == weights
    assert not (ran / "4_retrain/left_out.json").exists()


def test_marks_of_another_run_are_used_and_the_own_ones_win(
    config: RunConfig, ran: Path, tmp_path: Path, trained_on: Trained
) -> None:
    other = tmp_path / "other.jsonl"
    for name in NAMES[:3]:
        mark(other, name, "bad")
    mark(ran / MARKS, NAMES[0], "good")
    data = dataclasses.replace(config.data, marks=str(other))
    run_pipeline(dataclasses.replace(config, data=data), ran, redo=True)
    assert trained_on == {"3_pseudo_masks": {NAMES[0], *NAMES[3:]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; data.marks is a marks.jsonl"),
        (
            '{"image": "train_000000", "mark": "relabel", "labels": ["catt"]}',
            "unknown class 'catt'; did you mean 'cat'",
        ),
        ('{"image": "train_000000", "labels": ["background"]}', "not an image-level label"),
        ('{"image": "train_000000", "mark": 1}', "line 1: mark 1; expected"),
        ("\n".join(json.dumps({"image": name, "mark": "bad"}) for name in NAMES), "all 6 masks are marked bad"),
    ],
)
def test_mistake_in_the_marks_is_one_line_and_loses_nothing(
    config: RunConfig, ran: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "other.jsonl"
    if content:
        path.write_text(content + "\n")
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, marks=str(path)))
    with pytest.raises(DataError, match=message):
        run_pipeline(wrong, ran)
    assert all((ran / folder / "metrics.json").exists() for folder in FOLDERS)


def test_marks_on_masks_of_the_past_hold_and_are_named(
    config: RunConfig, ran: Path, trained_on: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    key = json.loads((ran / "manifest.json").read_text())["stages"]["pseudo_masks"]["key"]
    mark(ran / MARKS, NAMES[0], "bad", masks="another")
    mark(ran / MARKS, NAMES[1], "bad", masks=key)
    with caplog.at_level(logging.INFO, "weakclip"):
        run_pipeline(config, ran, redo=True)
    assert trained_on == {"3_pseudo_masks": set(NAMES[2:])}
    assert "retrain: 1 of 2 bad marks were made on other masks than this run's" in caplog.text


def test_marks_with_the_truth_in_view_are_owned_up_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = ScenesDataset("train", size=64, count=6)
    mark(tmp_path / MARKS, NAMES[0], "bad", truth_seen=True)
    mark(tmp_path / MARKS, NAMES[1], "good", truth_seen=True)
    assert read_review(dataset, [tmp_path / MARKS]).truth_seen == 1
    assert "1 of these marks were made with the true mask in view" in caplog.text


def test_reviewed_images_are_those_of_the_data_set() -> None:
    whole = ScenesDataset("train", size=64, count=4)
    reviewed = ReviewedImages(whole, labels={whole.names[2]: (1,), whole.names[3]: ()}, left_out=[whole.names[0]])
    assert reviewed.names == whole.names[1:]
    assert [reviewed.labels(index) for index in range(3)] == [whole.labels(1), (1,), ()]
    for index in range(3):
        assert (reviewed.image(index) == whole.image(index + 1)).all()
        assert (reviewed.mask(index) == whole.mask(index + 1)).all()
        assert reviewed.size(index) == whole.size(index + 1)
