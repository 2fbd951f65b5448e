"""Laws of the figures of one image's masks, and of the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from weakclip.errors import RunError
from weakclip.inference.mask_statistics import (
    class_iou,
    class_kept,
    class_means,
    class_shares,
    compare_masks,
    mean_over_classes,
    read_statistics,
    statistics_line,
)
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.store.lines import LineLog


def random_mask(seed: int, num_classes: int, size: tuple[int, int] = (17, 23), ignored: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, num_classes, size).astype(np.uint8)
    return np.where(rng.random(size) < ignored, 255, mask).astype(np.uint8)


@pytest.mark.parametrize("num_classes", [2, 5, 21, 81])
def test_iou_is_that_of_the_confusion_matrix(num_classes: int) -> None:
    prediction, truth = random_mask(0, num_classes), random_mask(1, num_classes, ignored=0.2)
    matrix = ConfusionMatrix(num_classes)
    matrix.update(prediction, truth)
    expected = {index: value for index, value in enumerate(matrix.iou().tolist()) if not math.isnan(value)}
    found = class_iou(prediction, truth)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=5e-5)


def test_iou_is_symmetric_and_follows_a_permutation_of_the_classes() -> None:
    one, other = random_mask(0, 5, ignored=0.1), random_mask(1, 5, ignored=0.3)
    assert class_iou(one, other) == class_iou(other, one)
    permuted = np.arange(256, dtype=np.uint8)
    permuted[:5] = [3, 0, 4, 2, 1]
    assert class_iou(permuted[one], permuted[other]) == {
        int(permuted[index]): value for index, value in class_iou(one, other).items()
    }


def test_a_mask_agrees_with_itself_and_undecided_pixels_say_nothing() -> None:
    mask = random_mask(0, 5)
    assert set(class_iou(mask, mask).values()) == {1.0}
    assert class_iou(np.full_like(mask, 255), mask) == {}


def test_shares_sum_to_one_with_the_undecided() -> None:
    mask = random_mask(0, 21, ignored=0.25)
    assert sum(class_shares(mask).values()) + (mask == 255).mean() == pytest.approx(1, abs=2e-3)


def test_kept_is_the_recall_of_the_seed_by_the_mask() -> None:
    seed, mask = random_mask(0, 5, ignored=0.3), random_mask(1, 5)
    kept = class_kept(seed, mask)
    assert kept == {index: pytest.approx((mask[seed == index] == index).mean(), abs=5e-5) for index in range(5)}
    assert class_kept(seed, seed) == dict.fromkeys(range(5), 1.0)
    assert class_kept(np.full_like(seed, 255), mask) == {}


def test_means_by_class_are_means_over_their_pixels() -> None:
    mask, values = random_mask(0, 5), np.random.default_rng(2).random((17, 23)).astype(np.float32)
    for index, mean in class_means(values, mask).items():
        assert mean == pytest.approx(values[mask == index].mean(), abs=1e-4)
    assert mean_over_classes({}) is None


def test_missed_classes() -> None:
    of = compare_masks("a", (1, 2), {"mask": np.array([[0, 0, 2, 2]], np.uint8)})
    assert of.missed == (1,)


def test_only_masks_that_are_there_are_compared() -> None:
    masks = {kind: random_mask(seed, 3) for seed, kind in enumerate(("seed", "mask", "prediction", "truth"))}
    of = compare_masks("a", (1,), masks)
    assert all([of.seed_mask, of.mask_prediction, of.seed_prediction, of.mask_truth, of.seed_shares, of.seed_kept])
    assert not of.dense_shares and compare_masks("a", (1,), {**masks, "dense": masks["seed"]}).dense_shares
    of = compare_masks("a", (1,), {"mask": masks["mask"]})
    assert not any([of.seed_mask, of.mask_prediction, of.seed_prediction, of.mask_truth])
    assert of.undecided is None and not of.seed_shares and not of.seed_kept


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    masks = {kind: random_mask(seed, 3) for seed, kind in enumerate(("seed", "mask", "prediction", "truth"))}
    of = dataclasses.replace(compare_masks('a/"b"\u2028<é>', (1, 2), masks), confidence=0.25, crf_change=0.0)
    log = LineLog(tmp_path / "statistics.jsonl")
    log.add(statistics_line(of))
    assert list(read_statistics(log.path)) == [of]


def test_lines_of_another_version_are_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "statistics.jsonl"
    path.write_text(json.dumps({"name": "a", "unheard_of": 1}) + "\n")
    with pytest.raises(RunError, match="no statistics of this version"):
        list(read_statistics(path))
    assert list(read_statistics(tmp_path / "none.jsonl")) == []
