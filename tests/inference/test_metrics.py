"""Laws of the confusion matrix, and a slow count of every score."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from weakclip.errors import DataError
from weakclip.inference.metrics import ConfusionMatrix


def random_pair(num_classes: int, seed: int = 0, shape: tuple[int, ...] = (17, 23)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, shape)
    prediction = np.where(rng.random(shape) < 0.6, target, rng.integers(0, num_classes, shape))
    target[rng.random(shape) < 0.1] = 255
    return prediction.astype(np.uint8), target.astype(np.uint8)


def scores_of(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> ConfusionMatrix:
    scores = ConfusionMatrix(num_classes)
    scores.update(prediction, target)
    return scores


@pytest.mark.parametrize("num_classes", [2, 5, 21, 81])
def test_scores_equal_a_count_of_sets(num_classes: int) -> None:
    prediction, target = random_pair(num_classes, shape=(60, 70))
    scores = scores_of(prediction, target, num_classes)
    scored = target != 255
    for k in range(num_classes):
        said, true = (prediction == k) & scored, (target == k) & scored
        assert scores.iou()[k] == pytest.approx((said & true).sum() / (said | true).sum())
        assert scores.precision()[k] == pytest.approx((said & true).sum() / said.sum())
        assert scores.recall()[k] == pytest.approx((said & true).sum() / true.sum())
    assert scores.pixel_accuracy() == pytest.approx((prediction == target)[scored].mean())
    assert scores.mean_iou() == pytest.approx(np.mean(scores.iou()))
    assert scores.matrix.sum() == scored.sum()
    assert scores.matrix.dtype == np.int64


def test_rows_are_true_and_columns_predicted() -> None:
    assert scores_of(np.array([1, 1]), np.array([0, 255]), 2).matrix.tolist() == [[0, 1], [0, 0]]


def test_images_one_by_one_a_batch_and_merged_parts_agree() -> None:
    prediction, target = random_pair(5, shape=(4, 9, 11))
    whole = scores_of(prediction, target, 5)
    single, left, right = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    for index in range(4):
        single.update(prediction[index], target[index])
        (left if index < 2 else right).update(prediction[index], target[index])
    left.merge(right)
    assert np.array_equal(single.matrix, whole.matrix)
    assert np.array_equal(left.matrix, whole.matrix)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, torch.uint8, torch.int64])
def test_every_integer_type_counts_the_same(kind: object) -> None:
    prediction, target = random_pair(21)
    expected = scores_of(prediction, target, 21).matrix
    if isinstance(kind, torch.dtype):
        pair = [torch.from_numpy(array).to(kind) for array in (prediction, target)]
    else:
        pair = [array.astype(kind) for array in (prediction, target)]
    assert np.array_equal(scores_of(*pair, 21).matrix, expected)


def test_what_is_predicted_on_ignored_pixels_does_not_count() -> None:
    prediction, target = random_pair(5)
    expected = scores_of(prediction, target, 5).matrix
    prediction[target == 255] = 255
    assert np.array_equal(scores_of(prediction, target, 5).matrix, expected)


@pytest.mark.parametrize("ignored", [0, -1, 300])
def test_any_value_can_be_ignored(ignored: int) -> None:
    scores = ConfusionMatrix(3, ignore_index=ignored)
    scores.update(np.array([1, 2, 1]), np.array([ignored, 2, 2]))
    assert scores.matrix.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_permuting_classes_permutes_the_scores() -> None:
    prediction, target = random_pair(7)
    order = np.random.default_rng(1).permutation(7)
    table = np.append(order, np.full(249, 255)).astype(np.uint8)
    permuted = scores_of(table[prediction], table[target], 7)
    assert permuted.iou()[order] == pytest.approx(scores_of(prediction, target, 7).iou())


def test_a_class_absent_from_both_has_no_score_and_no_part_in_the_mean() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = scores_of(np.array([0, 1, 1, 3]), np.array([0, 1, 0, 255]), 4)
        assert np.isnan(scores.iou()).tolist() == [False, False, True, True]
        assert scores.mean_iou() == pytest.approx(0.5)
        empty = ConfusionMatrix(3)
        assert all(np.isnan(score) for score in (empty.mean_iou(), empty.pixel_accuracy(), *empty.recall()))


def test_a_class_predicted_but_never_true_scores_zero() -> None:
    scores = scores_of(np.array([0, 2]), np.array([0, 0]), 3)
    assert scores.iou()[2] == 0
    assert scores.precision()[2] == 0
    assert np.isnan(scores.recall()[2])


def test_a_better_prediction_scores_higher() -> None:
    prediction, target = random_pair(5)
    better = np.where(np.random.default_rng(2).random(target.shape) < 0.5, target, prediction)
    better[better == 255] = 0
    assert scores_of(better, target, 5).mean_iou() > scores_of(prediction, target, 5).mean_iou()
    assert scores_of(np.where(target == 255, 0, target), target, 5).mean_iou() == 1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "differ in shape"),
        (np.zeros(2), np.zeros(2, int), "prediction is float64; expected integer"),
        (np.zeros(2, int), torch.zeros(2), "target is float32; expected integer"),
        (np.zeros(2, bool), np.zeros(2, int), "prediction is bool"),
        (np.array([0, 3]), np.array([0, 0]), "prediction holds 3; expected class indices 0 to 2"),
        (np.array([0, -1]), np.array([0, 0]), "prediction holds -1"),
        (np.array([0, 255], np.uint8), np.array([0, 0], np.uint8), "prediction holds 255"),
        (np.array([0, 0]), np.array([0, 254]), "target holds 254"),
    ],
)
def test_what_is_no_class_is_refused_and_nothing_counted(prediction: object, target: object, message: str) -> None:
    scores = ConfusionMatrix(3)
    with pytest.raises(DataError, match=message):
        scores.update(prediction, target)
    assert not scores.matrix.any()


def test_impossible_matrices_are_refused() -> None:
    with pytest.raises(DataError, match="at least one class"):
        ConfusionMatrix(0)
    with pytest.raises(DataError, match="cannot merge scores of 3 classes into 2"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))
