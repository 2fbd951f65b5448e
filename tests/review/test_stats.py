"""What the reviewers of a run have done: the last mark of each on each image, and how far they agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weakclip.errors import RunError
from weakclip.review.stats import NO_DAY, UNNAMED, review_stats
from weakclip.store.marks import MARKS


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with marks: reviewer, image, mark, day and more."""
    (tmp_path / "config.yaml").write_text("{}")

    def written(*lines: tuple[Any, ...]) -> Path:
        with (tmp_path / MARKS).open("a") as file:
            for reviewer, image, mark, day, *more in lines:
                entry = {"image": image, "mark": mark, "time": f"2026-03-0{day}T10:00:00+00:00", "reviewer": reviewer}
                file.write(json.dumps(entry | dict(more)) + "\n")
        return tmp_path

    return written


def test_marks_are_counted_by_day_and_reviewer(write: Callable[..., Path]) -> None:
    run = write(
        ("anna", "a", "good", 1),
        ("anna", "b", "bad", 1),
        ("anna", "b", "verified", 2),
        ("anna", "c", "bad", 2),
        ("anna", "c", None, 2, ("undo", True)),
        ("ben", "d", "bad", 2),
        ("ben", "d", None, 3),
        ("ben", "e", "relabel", 3, ("labels", ["cat"])),
    )
    (run / MARKS).open("a").write('{"image": "old", "mark": "good"}\n{"image": "to')
    stats = review_stats(run)
    anna, ben, old = stats.reviewers
    assert (anna.name, anna.marks, anna.verdicts) == ("anna", 2, {"good": 1, "verified": 1})
    assert anna.days == {"2026-03-01": 1, "2026-03-02": 1}
    assert (ben.name, ben.marks, ben.days) == ("ben", 1, {"2026-03-03": 1})
    assert (old.name, old.days) == (UNNAMED, {NO_DAY: 1})
    assert (stats.images, stats.torn, stats.pairs) == (4, 1, ())


def test_an_undo_is_no_mark_and_gives_back_the_mark_before(write: Callable[..., Path]) -> None:
    """Ben overrules Anna and takes it back: the state is hers again, and he has said nothing."""
    run = write(("anna", "a", "good", 1), ("ben", "a", "bad", 2), ("ben", "a", "good", 2, ("undo", True)))
    assert [each.name for each in review_stats(run).reviewers] == ["anna"]
    run = write(("anna", "a", "bad", 2), ("anna", "a", "good", 2, ("undo", True)))
    assert review_stats(run).reviewers[0].verdicts == {"good": 1}


def test_agreement_is_of_images_that_both_have_marked(write: Callable[..., Path]) -> None:
    run = write(
        *(
            ("anna", image, mark, 1)
            for image, mark in zip("abcde", ("good", "good", "bad", "bad", "good"), strict=True)
        ),
        *(
            ("ben", image, mark, 2)
            for image, mark in zip("abcdf", ("verified", "bad", "bad", "bad", "bad"), strict=True)
        ),
        ("carl", "x", "relabel", 1, ("labels", ["cat", "dog"])),
        ("dora", "x", "relabel", 1, ("labels", ["dog", "cat"])),
        ("carl", "y", "relabel", 1, ("labels", ["cat"])),
        ("dora", "y", "relabel", 1, ("labels", [])),
    )
    first, second = review_stats(run).pairs
    assert (first.reviewers, first.images, first.agreed, first.differing) == (("anna", "ben"), 4, 3, ("b",))
    assert first.kappa == pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2))  # by chance: 2/4 · 1/4 + 2/4 · 3/4
    assert (second.reviewers, second.agreed, second.differing) == (("carl", "dora"), 1, ("y",))


def test_the_same_answer_everywhere_has_no_kappa(write: Callable[..., Path]) -> None:
    run = write(("anna", "a", "good", 1), ("ben", "a", "good", 1))
    assert [(pair.agreed, pair.kappa) for pair in review_stats(run).pairs] == [(1, None)]


def test_the_command(call: Callable[..., int], write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = write(("anna", "a", "good", 1), ("ben", "a", "bad", 2), ("ben", "b", "bad", 2))
    assert call("review", run, "--stats") == 0
    shown = capsys.readouterr().out
    assert "2 images are marked" in shown and "ben: 2 marks (2 bad); by day: 2026-03-02 2" in shown
    assert "anna and ben agree on 0 of 1 images (0 %), Cohen's kappa 0.00\n  they differ on a\n" in shown
    assert call("review", run, "--stats", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["reviewers"][1]["days"] == {"2026-03-02": 2} and value["pairs"][0]["reviewers"] == ["anna", "ben"]
    with pytest.raises(RunError, match="not a run folder"):
        review_stats(run / "nothing")
