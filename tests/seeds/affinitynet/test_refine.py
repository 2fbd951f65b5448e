"""Laws of AffinityNet's labels and random walk: equal to brute force, any size, any number of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from weakclip.datasets import Sample
from weakclip.errors import ConfigError, DataError
from weakclip.seeds import CAM, AffinityLabelSettings, AffinityRefiner, RandomWalkSettings, affinity_label
from weakclip.seeds.affinitynet.model import AffinityNet, pair_offsets, pairwise_affinity
from weakclip.seeds.affinitynet.refine import random_walk
from weakclip.seeds.cam_files import read_cam, write_cam

NO_CRF = AffinityLabelSettings(crf=None)


def sample(labels: tuple[int, ...], height: int = 20, width: int = 26) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Sample(name="sub/a", image=image, labels=labels)


def cam_of(one: Sample) -> CAM:
    maps = np.random.default_rng(1).random((len(one.labels), *one.image.shape[:2])).astype(np.float32)
    return CAM(classes=one.labels, maps=maps)


def transitions(affinity: torch.Tensor, radius: int, beta: float) -> torch.Tensor:
    """The whole matrix `(hw, hw)`, columns summing to 1, as the released code makes it."""
    height, width = affinity.shape[1:]
    matrix = torch.eye(height * width)
    for pairs, (dy, dx) in zip(affinity, pair_offsets(radius), strict=True):
        for y in range(height):
            for x in range(width):
                if y + dy < height and 0 <= x + dx < width:
                    here, there = y * width + x, (y + dy) * width + x + dx
                    matrix[here, there] = matrix[there, here] = pairs[y, x]
    matrix = matrix**beta
    return matrix / matrix.sum(dim=0, keepdim=True)


@pytest.mark.parametrize("size", [(7, 9), (1, 6), (2, 2), (9, 3)])
@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("maps", [1, 2, 5])
def test_walk_is_the_power_of_the_whole_matrix(size: tuple[int, int], radius: int, maps: int) -> None:
    affinity, scores = pairwise_affinity(torch.randn(1, 4, *size), radius)[0], torch.rand(maps, *size)
    settings = RandomWalkSettings(beta=3.0, log_steps=4)
    power = torch.linalg.matrix_power(transitions(affinity, radius, 3.0), 16)
    found = random_walk(scores, affinity, radius, settings)
    torch.testing.assert_close(found.flatten(1), scores.flatten(1) @ power)


def test_walk_leaves_its_argument_and_constant_maps_alone() -> None:
    affinity, scores = pairwise_affinity(torch.randn(1, 4, 6, 7), 3)[0], torch.rand(2, 6, 7)
    before = scores.clone()
    walked = random_walk(scores, affinity, 3, RandomWalkSettings())
    assert torch.equal(scores, before)
    assert walked.min() >= scores.min() and walked.max() <= scores.max() + 1e-5
    ones = torch.ones(1, 6, 7)  # to the rounding of 256 steps
    torch.testing.assert_close(random_walk(ones, affinity, 3, RandomWalkSettings()), ones, rtol=0, atol=3e-4)


def test_walk_stays_within_a_region_that_resembles_no_other() -> None:
    features = torch.zeros(1, 3, 6, 8)
    features[..., 4:] = 100.0
    scores = torch.zeros(1, 6, 8)
    scores[0, 0, 0] = 1.0
    walked = random_walk(scores, pairwise_affinity(features, 5)[0], 5, RandomWalkSettings())[0]
    assert walked[:, :4].min() > 0.01
    assert walked[:, 4:].max() < 1e-6


@pytest.mark.parametrize("size", [(20, 26), (8, 8), (33, 9), (5, 5)])
@pytest.mark.parametrize("labels", [(1,), (2, 5, 80)])
def test_refined_maps_are_probabilities_at_the_image_size(size: tuple[int, int], labels: tuple[int, ...]) -> None:
    model = AffinityNet(widths=(4, 4, 8, 8, 16, 16, 32), reductions=(4, 4, 8), radius=3).eval()
    one = sample(labels, *size)
    found = AffinityRefiner(model, RandomWalkSettings(log_steps=2)).probabilities(one, cam_of(one))
    assert found.shape == (1 + len(labels), *size) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    assert (found > 0).all()


def test_the_background_walks_from_a_constant() -> None:
    """Even maps stay even: 0.39 against them, the score of the background in MCTformer's released code."""
    model = AffinityNet(widths=(4, 4, 8, 8, 16, 16, 32), reductions=(4, 4, 8), radius=3).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)  # equal features: all affinities are 1
    one = sample((1,), 16, 16)
    maps = np.full((1, 16, 16), 0.5, dtype=np.float32)
    found = AffinityRefiner(model, RandomWalkSettings()).probabilities(one, CAM((1,), maps))
    np.testing.assert_allclose(found[0], 0.39 / 0.89, rtol=1e-3)


@torch.no_grad()
def test_permuting_the_classes_permutes_the_refined_maps() -> None:
    model = AffinityNet(widths=(4, 4, 8, 8, 16, 16, 32), reductions=(4, 4, 8)).eval()
    one = sample((1, 2, 3))
    cam, order = cam_of(one), [2, 0, 1]
    refiner = AffinityRefiner(model)
    first, second = refiner.probabilities(one, cam), refiner.probabilities(one, CAM((1, 2, 3), cam.maps[order]))
    np.testing.assert_allclose(second[1:], first[1:][order], atol=1e-6)


def test_label_is_what_both_background_scores_say() -> None:
    """Per pixel, by hand: against `1-m` foreground is sure, against `(1-m)^12` background is."""
    one = sample((3, 7))
    cam = cam_of(one)
    found = affinity_label(one, cam, NO_CRF)
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            strongest = max(cam.maps[:, y, x])
            best = (3, 7)[int(cam.maps[1, y, x] > cam.maps[0, y, x])]
            expected = best if strongest > 1 - strongest else 255
            assert found[y, x] == (0 if (1 - strongest) ** 12 > strongest else expected)
    assert set(np.unique(found)) == {0, 3, 7, 255}


def test_label_goes_through_the_dense_crf() -> None:
    one = sample((1,))
    one.image[:] = 90
    one.image[:, 13:] = 200
    maps = np.zeros((1, 20, 26), dtype=np.float32)
    maps[:, :, :13] = 0.8
    maps[:, 5:15, 4:8] = 0.02  # a hole that the colours close
    label = affinity_label(one, CAM((1,), maps), AffinityLabelSettings())
    assert (label[:, :13] == 1).all() and (label[:, 13:] == 0).all()


def test_image_without_labels_is_background() -> None:
    one = sample(())
    assert (affinity_label(one, read_cam("nowhere.png", one), AffinityLabelSettings()) == 0).all()


@pytest.mark.parametrize("labels", [(1,), (2, 5, 80)])
def test_written_maps_are_read_back_to_a_step_of_255(labels: tuple[int, ...], tmp_path: Path) -> None:
    one = sample(labels)
    cam, path = cam_of(one), tmp_path / "cams/sub/a.png"
    write_cam(path, one, cam)
    found = read_cam(path, one)
    assert found.classes == labels and found.maps.dtype == np.float32
    assert np.abs(found.maps - cam.maps).max() <= 0.5 / 255 + 1e-6
    write_cam(path, one, found)
    np.testing.assert_array_equal(read_cam(path, one).maps, found.maps)


def test_maps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one, path = sample((1, 2)), tmp_path / "a.png"
    with pytest.raises(DataError, match=r"CAMs \(1, 20, 26\) of classes \(1,\); expected \(2, 20, 26\)"):
        write_cam(path, one, cam_of(sample((1,))))
    write_cam(path, sample((1,)), cam_of(sample((1,))))
    with pytest.raises(DataError, match=r"a\.png: CAMs of \(20, 26\); expected \(40, 26\); remove the file"):
        read_cam(path, one)
    with pytest.raises(DataError, match="no such file"):
        read_cam(tmp_path / "none.png", one)


def test_powers_are_in_order() -> None:
    with pytest.raises(ConfigError, match=r"in order, expected; found 5\.0 and 4\.0"):
        AffinityLabelSettings(low_power=5.0, high_power=4.0)
