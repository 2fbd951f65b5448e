"""Laws of what the report knows of single images: joined from the stages, judged against each other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from weakclip.errors import RunError
from weakclip.inference.mask_statistics import STATISTICS, ImageStatistics, statistics_line
from weakclip.report import read_images, render_report
from weakclip.report.class_table import class_figures
from weakclip.report.doubts import KINDS, UNUSUAL, area_scores, figures_of, reason, worst
from weakclip.store.files import write_json
from weakclip.store.lines import LineLog

KIND = {kind.key: kind for kind in KINDS}


def image(index: int, share: float, **others: object) -> ImageStatistics:
    shares = {0: 1 - share, 1: share} if share else {0: 1.0}
    made = ImageStatistics(name=str(index), size=(8, 8), labels=(1,), shares=shares)
    return dataclasses.replace(made, **others)


def many(count: int = 40) -> list[ImageStatistics]:
    rng = np.random.default_rng(0)
    return [image(index, float(share)) for index, share in enumerate(rng.uniform(0.1, 0.3, count))]


def payload_of(page: str) -> dict[str, list[list[object]]]:
    """The JSON that the page's script reads."""
    start = page.index('id="report-data">') + len('id="report-data">')
    content: dict[str, list[list[object]]] = json.loads(page[start : page.index("</script>", start)])
    return content


def test_stages_are_joined_image_by_image(images_folder: Path) -> None:
    run = read_images(images_folder)
    assert [of.name for of in run.images][:2] == ["image_000", "image_001"]
    assert run.images[0].confidence == 0.9 and run.images[0].mask_prediction
    assert [strips.captions for strips in run.strips] == [("image", "seed", "pseudo mask"), ("prediction",)]
    assert run.classes[0] == ("background", "#000000")
    assert [of.name for of in run.images if of.missed] == ["image_003"]


def test_an_evaluation_of_other_masks_says_nothing_of_these(images_folder: Path) -> None:
    manifest = json.loads((images_folder / "manifest.json").read_text())
    manifest["stages"]["pseudo_masks"]["key"] = "newer"
    write_json(images_folder / "manifest.json", manifest)
    run = read_images(images_folder)
    assert run.images and not any(of.mask_prediction for of in run.images)
    assert len(run.strips) == 1


def test_a_run_stopped_after_the_masks_has_its_figures(images_folder: Path) -> None:
    manifest = json.loads((images_folder / "manifest.json").read_text())
    del manifest["stages"]["evaluate"]
    write_json(images_folder / "manifest.json", manifest)
    classes = json.loads((images_folder / "5_evaluate/pictures.json").read_text())["classes"]
    (images_folder / "5_evaluate/pictures.json").unlink()
    write_json(images_folder / "3_pseudo_masks/metrics.json", {"classes": classes})
    page = render_report(images_folder)
    assert "Largest CRF change" in page and "Network disagrees" not in page


def test_a_run_whose_first_masks_are_being_made_has_a_report(images_folder: Path) -> None:
    """Another stage of it can be asked for meanwhile, and writes the report."""
    shutil.rmtree(images_folder / "5_evaluate")
    manifest = json.loads((images_folder / "manifest.json").read_text())
    del manifest["stages"]["evaluate"]
    manifest["stages"]["pseudo_masks"]["done"] = False
    write_json(images_folder / "manifest.json", manifest)
    assert read_images(images_folder).images == ()
    assert "pseudo_masks" in render_report(images_folder)


def test_class_beyond_the_run_is_one_clear_line(images_folder: Path) -> None:
    LineLog(images_folder / "3_pseudo_masks" / STATISTICS).add(statistics_line(image(0, 0.5, labels=(9,))))
    with pytest.raises(RunError, match="0 has class 9, but the run 3"):
        read_images(images_folder)


def test_payload_holds_every_image_and_pictures_of_the_worst_alone(images_folder: Path) -> None:
    content = payload_of(render_report(images_folder))
    assert len(content["images"]) == 130
    assert 12 <= len(content["embedded"]) < 80
    assert max(len(kind["order"]) for kind in content["kinds"]) == 12


def test_page_without_strips_is_whole(images_folder: Path) -> None:
    for path in images_folder.rglob("strips/*.jpg"):
        path.unlink()
    content = payload_of(render_report(images_folder))
    assert {picture for pictures in content["embedded"].values() for picture in pictures} == {None}


def test_area_scores_are_of_the_class_alone_and_follow_the_order_of_the_images() -> None:
    images = many()
    scores = area_scores(images)
    assert area_scores(images[::-1]) == scores[::-1]
    assert all(0 not in score for score in scores)
    median = np.median([score[1] for score in scores])
    assert median == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("share", "sign"), [(0.97, 1), (0.002, -1)])
def test_an_image_that_is_filled_or_nearly_empty_is_unusual(share: float, sign: int) -> None:
    images = [*many(), image(40, share)]
    scores = area_scores(images)
    assert sign * scores[40][1] > UNUSUAL
    assert all(abs(score[1]) < UNUSUAL for score in scores[:40])
    assert worst(figures_of(images), KIND["area"], 5) == [40]


def test_few_or_equal_images_have_no_spread() -> None:
    assert not any(area_scores(many(9)))
    assert not any(area_scores([image(index, 0.2) for index in range(20)]))


def test_doubt_grows_with_everything_that_speaks_against_a_mask() -> None:
    base = [image(index, 0.2, confidence=0.9, crf_change=0.02, seed_mask={1: 0.8}) for index in range(20)]
    worse = {"confidence": 0.1, "crf_change": 0.6, "seed_mask": {1: 0.1}, "mask_prediction": {1: 0.0}, "shares": {0: 1}}
    base = [dataclasses.replace(of, mask_prediction={1: 0.9}) for of in base]
    for name, value in worse.items():
        changed = [dataclasses.replace(base[0], **{name: value}), *base[1:]]
        doubts = [figures.doubt for figures in figures_of(changed)]
        assert doubts[0] == max(doubts) and doubts.count(doubts[0]) == 1
    assert figures_of([]) == []


def test_a_mask_that_lacks_a_tagged_class_comes_first_and_says_so() -> None:
    base = [image(index, 0.2, confidence=0.9, crf_change=0.02, seed_mask={1: 0.8}) for index in range(20)]
    bad = dataclasses.replace(base[3], confidence=0.1, crf_change=0.9, seed_mask={1: 0.0})
    lacking = dataclasses.replace(base[7], labels=(1, 2))
    figures = figures_of([*base[:3], bad, *base[4:7], lacking, *base[8:]])
    order = sorted(range(20), key=lambda index: -figures[index].doubt)
    assert order[:2] == [7, 3] and 0.5 <= figures[7].doubt <= 1 and figures[3].doubt < 0.5
    names = ("background", "cat", "dog")
    assert reason(figures[7], names) == "no pixel of dog"
    assert reason(figures[3], names) in {"lowest confidence", "largest crf change", "seed disagrees"}


def test_tags_that_look_wrong_come_first_and_say_why() -> None:
    base = [image(index, 0.2, confidence=0.9, crf_change=0.02, votes={1: 1.0, 2: 0.1}) for index in range(20)]
    untagged = dataclasses.replace(base[3], votes={1: 0.9, 2: 0.8})
    nothing = dataclasses.replace(base[7], votes={1: 0.04, 2: 0.3})
    figures = figures_of([*base[:3], untagged, *base[4:7], nothing, *base[8:]])
    assert worst(figures, KIND["tags"], 12) == [7, 3]
    assert {*sorted(range(20), key=lambda index: -figures[index].doubt)[:2]} == {3, 7}
    names = ("background", "cat", "dog")
    assert reason(figures[3], names) == "looks like untagged dog"
    assert reason(figures[7], names) == "nothing looks like cat"
    assert reason(figures[0], names) != "tags look wrong"
    unjudged = figures_of([dataclasses.replace(of, votes={}) for of in base])
    assert worst(unjudged, KIND["tags"], 12) == [] and unjudged[0].statistics.tag_doubt is None


def test_true_masks_change_no_doubt() -> None:
    images = many()
    scored = [dataclasses.replace(of, mask_truth={1: 0.01 * index}) for index, of in enumerate(images)]
    assert [of.doubt for of in figures_of(scored)] == [of.doubt for of in figures_of(images)]


def test_lists_are_worst_first_and_hold_only_what_has_a_place() -> None:
    images = [image(0, 0.2, confidence=0.5), image(1, 0.2), image(2, 0.2, confidence=0.1)]
    assert worst(figures_of(images), KIND["confidence"], 12) == [2, 0]
    assert worst(figures_of(images), KIND["missed"], 12) == []


def test_class_figures_count_tags_and_masks() -> None:
    images = [image(0, 0.2), image(1, 0.0), image(2, 0.4, labels=()), image(3, 0.6)]
    background, dog = class_figures(figures_of(images), 2)
    assert (dog.tagged, dog.covered, dog.untagged, dog.coverage) == (3, 2, 1, pytest.approx(2 / 3))
    assert dog.areas[2] == pytest.approx(0.4)
    assert (background.tagged, background.covered, background.coverage) == (None, 4, None)
    (_, nothing) = class_figures([], 2)
    assert nothing.areas == () and nothing.confidence is None
