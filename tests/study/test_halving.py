"""Laws of successive halving: it finds the best, spends evenly, and goes on where it was stopped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from weakclip.study.halving import Rung, rung_sizes, successive_halving


def score(chosen: Sequence[int], images: int) -> list[float]:
    """Candidate 7 is best; the fewer images, the more does chance say, the same one for the same question."""
    return [-abs(number - 7) + ((number * 31 + images) % 5 - 2) / images for number in chosen]


@pytest.mark.parametrize("candidates", [1, 2, 3, 4, 10, 27, 81, 100])
@pytest.mark.parametrize("images", [1, 5, 500, 10_582])
def test_rungs_shrink_in_candidates_and_grow_to_all_images(candidates: int, images: int) -> None:
    sizes = rung_sizes(candidates, images, 3)
    assert sizes[0][0] == candidates
    assert sizes[-1][1] == images
    assert sizes[-1][0] <= 3
    for (more, fewer_images), (fewer, more_images) in itertools.pairwise(sizes):
        assert fewer == math.ceil(more / 3)
        assert 1 <= fewer_images <= more_images
    costs = [count * seen for count, seen in sizes]
    if images > 10 * candidates:
        assert max(costs) < 2 * min(costs)


def test_the_best_is_found_and_the_kept_one_stays() -> None:
    rungs = list(successive_halving(rung_sizes(27, 500, 3), score, always=(26,)))
    assert rungs[-1].ranking()[0] == 7
    assert [len(rung.scores) for rung in rungs] == [27, 10, 4]
    assert all(26 in rung.scores for rung in rungs)
    assert [rung.images for rung in rungs] == [55, 166, 500]


def test_the_better_ones_go_on() -> None:
    first, second, _ = successive_halving(rung_sizes(27, 500, 3), score)
    assert set(second.scores) == set(first.ranking()[:9])
    assert min(first.scores[number] for number in second.scores) >= max(
        value for number, value in first.scores.items() if number not in second.scores
    )


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_a_stopped_search_goes_on_with_the_same_rungs(stopped_after: int) -> None:
    sizes = rung_sizes(27, 500, 3)
    whole = list(successive_halving(sizes, score, always=(0,)))
    asked: list[int] = []

    def counted(chosen: Sequence[int], images: int) -> list[float]:
        asked.append(images)
        return score(chosen, images)

    rest = list(successive_halving(sizes, counted, done=whole[:stopped_after], always=(0,)))
    assert rest == whole[stopped_after:]
    assert asked == [images for _, images in sizes[stopped_after:]]


def test_without_a_single_score_the_first_ones_stay() -> None:
    assert Rung(1, dict.fromkeys(range(5), math.nan)).ranking() == [0, 1, 2, 3, 4]
