"""From class activation maps to seeds: what is sure stays, what is not becomes 255."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from weakclip.datasets import Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import DataError
from weakclip.seeds import CAM, SeedSettings, seed_masks
from weakclip.seeds.base import seed_probabilities

SIZE = (24, 32)
PLAIN = SeedSettings(crf=None)


@pytest.fixture
def sample():
    """A red square on green; classes 2 and 5 of a class set."""
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    image[..., 1] = 200
    image[6:18, 8:22] = (220, 20, 20)
    return Sample(name="square", image=image, labels=(2, 5))


@pytest.fixture
def cam():
    maps = np.random.default_rng(0).random((2, *SIZE)).astype(np.float32)
    return CAM(classes=(2, 5), maps=maps)


def test_probabilities_sum_to_1_and_the_background_is_what_is_left(cam):
    probabilities = seed_probabilities(cam)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-6)
    scores = np.concatenate([1 - cam.maps.max(axis=0, keepdims=True), cam.maps])
    np.testing.assert_allclose(probabilities, scores / scores.sum(axis=0), atol=2e-5)
    assert (probabilities > 0).all()


def test_a_larger_power_means_less_background(sample, cam):
    shares = [
        (seed_masks(sample, cam, dataclasses.replace(PLAIN, background_power=power)).dense == 0).mean()
        for power in (0.5, 1, 2, 4)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_seeds_are_the_sure_part_of_the_dense_mask(sample, cam):
    settings = dataclasses.replace(PLAIN, foreground_confidence=0.5, background_confidence=0.6)
    masks = seed_masks(sample, cam, settings)
    probabilities = seed_probabilities(cam)
    assert set(np.unique(masks.dense)) <= {0, 2, 5}
    needed = np.where(masks.dense == 0, 0.6, 0.5)
    np.testing.assert_array_equal(masks.seed == IGNORE_INDEX, probabilities.max(axis=0) < needed)
    sure = masks.seed != IGNORE_INDEX
    assert 0 < sure.mean() < 1
    np.testing.assert_array_equal(masks.seed[sure], masks.dense[sure])


def test_stricter_thresholds_keep_fewer_seeds(sample, cam):
    kept = [
        seed_masks(sample, cam, SeedSettings(foreground_confidence=c, background_confidence=c, crf=None)).seed
        for c in (0, 0.5, 0.8, 0.95)
    ]
    assert (kept[0] != IGNORE_INDEX).all()
    for more, fewer in itertools.pairwise(kept):
        assert ((fewer != IGNORE_INDEX) <= (more != IGNORE_INDEX)).all()


def test_permuting_the_classes_permutes_nothing_in_the_mask(sample, cam):
    other = CAM(classes=cam.classes[::-1], maps=cam.maps[::-1])
    ours, theirs = seed_masks(sample, cam, PLAIN), seed_masks(sample, other, PLAIN)
    np.testing.assert_array_equal(ours.dense, theirs.dense)
    np.testing.assert_array_equal(ours.seed, theirs.seed)


def test_the_crf_snaps_a_blurred_map_to_the_object(sample):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    blurred = np.exp(-((rows - 10) ** 2 / 50 + (columns - 13) ** 2 / 70)).astype(np.float32)
    cam = CAM(classes=(2,), maps=blurred[None])
    truth = (sample.image[..., 0] == 220) * np.uint8(2)
    plain, sharp = (seed_masks(sample, cam, settings).dense for settings in (PLAIN, SeedSettings()))
    assert (sharp == truth).mean() > (plain == truth).mean()
    assert (sharp == truth).mean() > 0.97


def test_an_image_without_labels_is_background(sample):
    cam = CAM(classes=(), maps=np.zeros((0, *SIZE), dtype=np.float32))
    masks = seed_masks(dataclasses.replace(sample, labels=()), cam, SeedSettings())
    assert not masks.seed.any()
    assert not masks.dense.any()


def test_maps_that_do_not_fit_are_refused(sample, cam):
    with pytest.raises(DataError, match="do not fit"):
        seed_masks(sample, CAM(classes=cam.classes, maps=cam.maps[:, :5]), PLAIN)
    with pytest.raises(DataError, match="the labels are"):
        seed_masks(dataclasses.replace(sample, labels=(2,)), cam, PLAIN)
