"""Which results of a run folder do not belong together, told from its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weakclip.store.layout import STAGE_FOLDERS
from weakclip.store.standing import mixture, outdated

UPSTREAM = {"train": ["seeds"], "pseudo_masks": ["train"], "retrain": ["pseudo_masks"]}
UPSTREAM["evaluate"] = ["seeds", "train", "pseudo_masks", "retrain"]


def records(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A finished run, its keys the names of the stages, with changes to some records."""
    stages = ("seeds", *UPSTREAM)
    made = {
        name: {"key": name, "done": True, "inputs": {above: above for above in UPSTREAM.get(name, [])}}
        for name in stages
    }
    return {name: record | changes.get(name, {}) for name, record in made.items()}


def run_of(folder: Path, stages: dict[str, dict[str, Any]], *aside: str) -> Path:
    for name in (*(STAGE_FOLDERS[stage] for stage in stages), *aside):
        (folder / name).mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "stages": stages}))
    return folder


def test_a_finished_run_is_of_one_piece(tmp_path: Path) -> None:
    assert outdated(records()) == [] and mixture(run_of(tmp_path, records())) == ""
    assert mixture(tmp_path / "nothing") == "" and mixture(run_of(tmp_path, {})) == ""
    begun = {name: record for name, record in records().items() if name in ("seeds", "train")}
    begun["train"]["done"] = False  # a first run at work
    assert mixture(run_of(tmp_path, begun)) == ""


@pytest.mark.parametrize(
    ("stage", "after"),
    [("seeds", ["train", "pseudo_masks", "retrain", "evaluate"]), ("pseudo_masks", ["retrain", "evaluate"])],
)
def test_all_that_builds_on_a_new_result_is_outdated(stage: str, after: list[str]) -> None:
    for done in (True, False):
        assert outdated(records(**{stage: {"key": "new", "done": done}})) == after
    gone = {name: record for name, record in records().items() if name != stage}
    assert outdated(gone) == after


def test_what_is_being_made_again_is_named_with_the_command(tmp_path: Path) -> None:
    stopped = records(pseudo_masks={"key": "new", "done": False})
    said = mixture(run_of(tmp_path, stopped, "3_pseudo_masks.previous"))
    assert said.startswith(
        f"{tmp_path}: results that do not belong together: 3_pseudo_masks is being made again and not"
    )
    assert "; 4_retrain, 5_evaluate are made of earlier results than are there now; `weakclip run" in said
    assert said.endswith(f"--out {tmp_path} --redo` goes on")


def test_a_leftover_of_a_finished_result_is_no_mixture(tmp_path: Path) -> None:
    """The removal of the old result was cut short."""
    assert mixture(run_of(tmp_path, records(), "2_train.previous")) == ""


def test_a_network_that_the_evaluation_passes_over_is_passed_over(tmp_path: Path) -> None:
    """`retrain.model` has become null: no command would make it again."""
    keys = {"seeds": "seeds", "train": "train", "pseudo_masks": "new"}
    without = records(pseudo_masks={"key": "new"}, evaluate={"inputs": keys})
    assert outdated(without) == [] and mixture(run_of(tmp_path, without)) == ""


def test_an_upper_bound_goes_on_with_full(tmp_path: Path) -> None:
    bound = records() | {"retrain_truth": {"key": "new", "done": False}}
    bound["evaluate_truth"] = {"key": "x", "done": True, "inputs": {"retrain_truth": "old"}}
    said = mixture(run_of(tmp_path, bound, "4_retrain_truth.previous"))
    assert "4_retrain_truth is being made again" in said and said.endswith("--redo --full` goes on")
