"""Laws of the report's part on seeds: what is undecided, and how much of what is sure the masks contradict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weakclip.errors import RunError
from weakclip.inference.mask_statistics import compare_masks
from weakclip.report import render_report
from weakclip.report.sure_seeds import FEW_UNDECIDED, SureSeeds, contradicted, sure_seeds
from weakclip.report.worse_masks import Change, seed_change
from weakclip.store.files import write_json

NOTHING = seed_change([])


def change_of(kept: list[float], label: int = 1) -> Change:
    """Images of a seed of ten pixels, of which the masks keep these shares; class 2 where they do not."""
    images = []
    for index, share in enumerate(kept):
        seed = np.zeros((4, 10), np.uint8)
        seed[1] = label
        mask = seed.copy()
        mask[1, round(10 * share) :] = 2
        images.append(compare_masks(str(index), (label,), {"seed": seed, "dense": seed, "mask": mask}))
    return seed_change(images)


def run_with(folder: Path, shares: object) -> Path:
    write_json(folder / "manifest.json", {"format": 2, "stages": {"seeds": {"key": "a", "done": True, "seconds": 1.0}}})
    write_json(folder / "1_seeds/metrics.json", {"mean_shares": shares})
    return folder


def shares(undecided: float) -> dict[str, float]:
    return {"foreground": 0.3, "background": 0.7 - undecided, "undecided": undecided}


def seeds_of(folder: Path, undecided: float, change: Change = NOTHING) -> SureSeeds:
    found = sure_seeds(run_with(folder, shares(undecided)), change)
    assert found is not None
    return found


def test_contradicted_is_what_the_masks_do_not_keep(tmp_path: Path) -> None:
    change = change_of([1.0, 0.8, 0.6])
    assert contradicted(change.classes[1]) == pytest.approx(0.2)
    found = seeds_of(tmp_path, 0.2, change)
    assert found.contradicted == pytest.approx(0.2)
    assert [each.index for each in found.classes] == [0, 1]


def test_images_that_lost_the_class_say_nothing_of_its_seeds() -> None:
    """There the training is what is wrong."""
    assert contradicted(change_of([0.8, 0.8, 0.8, 0.0]).classes[1]) == pytest.approx(0.2)
    assert contradicted(change_of([0.8, 0.8, 0.0, 0.0]).classes[1]) is None
    assert contradicted(change_of([0.0, 0.0, 0.0]).classes[1]) is None


def test_few_images_of_a_class_do_not_count(tmp_path: Path) -> None:
    assert seeds_of(tmp_path, 0.2, change_of([0.5, 0.5])).contradicted is None


@pytest.mark.parametrize(("undecided", "over_sure"), [(0.0, True), (0.05, True), (FEW_UNDECIDED, False), (0.4, False)])
def test_few_undecided_pixels_are_pointed_out(tmp_path: Path, undecided: float, over_sure: bool) -> None:
    assert seeds_of(tmp_path, undecided).over_sure == over_sure
    page = render_report(tmp_path)
    assert ("Hardly a pixel is undecided" in page) == over_sure
    marked = ' class="warn"' if over_sure else ""
    assert f"<span>Undecided</span><b{marked}>{100 * undecided:.1f}</b>" in page
    assert "<span>Contradicted</span>" not in page


@pytest.mark.parametrize(
    "value",
    [None, [], "much", dict.fromkeys(("foreground", "background", "undecided")), {"undecided": 0.5}, shares(0.8)],
)
def test_shares_that_are_missing_or_no_shares_are_no_seeds(tmp_path: Path, value: object) -> None:
    assert sure_seeds(run_with(tmp_path, value), NOTHING) is None
    assert 'id="seeds"' not in render_report(tmp_path)


def test_broken_metrics_are_one_clear_line(tmp_path: Path) -> None:
    run_with(tmp_path, shares(0.2))
    (tmp_path / "1_seeds/metrics.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read as JSON"):
        render_report(tmp_path)


def test_page_shows_every_class_and_truth_where_there_is_one(images_folder: Path) -> None:
    write_json(images_folder / "1_seeds/metrics.json", {"mean_shares": shares(0.05)})
    page = render_report(images_folder)
    section = page[page.index('<section id="seeds"') : page.index('<section id="results"')]
    assert section.count('<th scope="row">') == 3
    assert "Truly wrong" in section and "<script" not in section
    scores = json.loads((images_folder / "5_evaluate/metrics.json").read_text())
    write_json(images_folder / "5_evaluate/metrics.json", {"scores": scores["scores"][1:]})
    assert "Truly wrong" not in render_report(images_folder)
