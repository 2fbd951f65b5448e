"""The network that a run hands over: the best one where true masks tell, else WeakCLIP; a foreign file is one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from weakclip.errors import RunError
from weakclip.inference.evaluation import Scores
from weakclip.report import render_report
from weakclip.report.chosen import ChosenNetwork, choose_network, read_chosen, write_chosen


def row(mean_iou: float, crf: str = "no") -> Scores:
    parts: dict[str, float | None] = {"background": mean_iou}
    return Scores(
        subject="x",
        split="val",
        images=3,
        crf=crf,
        multi_scale="no",
        mean_iou=mean_iou,
        pixel_accuracy=0.5,
        iou=parts,
        precision=parts,
        recall=parts,
    )


def test_the_best_row_is_chosen_and_the_reason_names_both() -> None:
    rows = {"weakclip": (row(0.61), row(0.72, "sxy 1")), "retrained": (row(0.7), row(0.65, "sxy 1"))}
    chosen = choose_network(rows)
    assert (chosen.network, chosen.crf) == ("weakclip", True)
    assert chosen.line == "WeakCLIP with the dense CRF (72.0 % mean IoU on val, retrained network 70.0 %)"
    rows["retrained"] = (row(0.73), row(0.65, "sxy 1"))
    chosen = choose_network(rows)
    assert chosen.line == "retrained network without a dense CRF (73.0 % mean IoU on val, WeakCLIP 72.0 %)"
    assert choose_network({"weakclip": (row(0.4),), "retrained": (row(0.4),)}).network == "weakclip"


def test_a_second_list_has_no_say() -> None:
    other = dataclasses.replace(row(0.9), split="val with labels")
    chosen = choose_network({"weakclip": (row(0.5), other), "retrained": (row(0.6), row(0.55, "sxy 1"))})
    assert chosen.line == "retrained network without a dense CRF (60.0 % mean IoU on val, WeakCLIP 50.0 %)"


def test_without_true_masks_it_is_weakclip() -> None:
    chosen = choose_network({"weakclip": (), "retrained": ()})
    assert (chosen.network, chosen.crf) == ("weakclip", None)
    assert "no true masks" in chosen.why


def test_the_choice_is_kept(tmp_path: Path) -> None:
    assert read_chosen(tmp_path).network == "weakclip" and "not compared" in read_chosen(tmp_path).why
    for crf in (True, False, None):
        chosen = ChosenNetwork(network="retrained", crf=crf, why="two <b>\n lines")
        write_chosen(tmp_path, chosen)
        assert read_chosen(tmp_path) == ChosenNetwork(network="retrained", crf=crf, why="two <b> lines")


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        "{}",
        '{"network": "../../x", "crf": true, "why": "x"}',
        '{"network": "weakclip", "crf": 1, "why": "x"}',
        '{"network": "weakclip", "crf": true}',
        '{"network": ["weakclip"], "crf": true, "why": "x"}',
        "[" * 100_000,
    ],
)
def test_a_foreign_choice_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "5_evaluate").mkdir()
    (tmp_path / "5_evaluate/chosen.json").write_text(content)
    with pytest.raises(RunError, match=r"chosen\.json") as caught:
        read_chosen(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_report_says_which_and_why(run_folder: Path) -> None:
    assert "WeakCLIP (the run has not compared its networks yet)" in render_report(run_folder)
    choice = {"network": "retrained", "crf": False, "why": "<script>alert(2)</script>"}
    (run_folder / "5_evaluate/chosen.json").write_text(json.dumps(choice))
    page = render_report(run_folder)
    assert "retrained network without a dense CRF (&lt;script&gt;alert(2)&lt;/script&gt;)" in page
