"""Scenes: the same bytes everywhere, exact masks, and the two difficulties that it promises."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from weakclip.datasets.scene_drawing import draw_scene
from weakclip.datasets.scene_shapes import BLUEPRINTS, GROUNDS
from weakclip.datasets.scenes import SCENES, ScenesDataset
from weakclip.errors import DataError


def test_a_seed_gives_the_same_bytes_on_every_machine():
    digest = hashlib.sha256()
    for index in range(20):
        scene = draw_scene((0, 0, index))
        digest.update(scene.image.tobytes() + scene.mask.tobytes())
    assert digest.hexdigest() == "2e1b8c4061986e8848c6535fcc810ca3b99e3ace14de8e94d4744704235d7dda"


def test_other_seeds_splits_and_indices_give_other_pictures():
    seeds = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({draw_scene(seed).image.tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("size", [64, 97, 128, 200])
def test_shapes_and_types(size):
    scene = draw_scene((3, 1), size=size)
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert scene.mask.shape == (size, size) and scene.mask.dtype == np.uint8


def test_labels_are_exactly_the_classes_of_the_mask():
    dataset = ScenesDataset("train", count=120)
    for index in range(len(dataset)):
        shown = set(np.unique(dataset.mask(index)).tolist()) - {0}
        assert set(dataset.labels(index)) == shown
        assert 1 <= len(shown) <= 3


def test_every_class_occurs_and_some_keep_company_with_their_ground():
    scenes = [draw_scene((5, index)) for index in range(600)]
    names = {name for scene in scenes for name, _ in scene.objects}
    assert names == set(BLUEPRINTS)
    on_water = [("water" in scene.grounds) for scene in scenes if "boat" in dict(scene.objects)]
    elsewhere = [("water" in scene.grounds) for scene in scenes if "boat" not in dict(scene.objects)]
    assert np.mean(on_water) > 2 * np.mean(elsewhere)
    assert {ground for scene in scenes for ground in scene.grounds} == set(GROUNDS)


def test_the_telling_part_is_small():
    """On most classes less than a third of the object's area is painted in anything but the body's tone."""
    unit = (np.arange(-200, 200, dtype=np.float32) + 0.5) / 120
    u, v = np.meshgrid(unit, unit)
    shares = []
    for blueprint in BLUEPRINTS.values():
        telling, inside = np.zeros(u.shape, bool), np.zeros(u.shape, bool)
        for part in blueprint.parts:
            covered = part.shape(u, v) < 0
            inside |= covered
            telling[covered] = part.tone != "body"
        shares.append(telling.sum() / inside.sum())
    assert max(shares) < 0.4
    assert np.median(shares) < 0.2


def test_pictures_may_be_changed_by_their_user():
    dataset = ScenesDataset("val", count=1)
    dataset.image(0)[:] = 0
    dataset.mask(0)[:] = 0
    assert dataset.image(0).any() and dataset.mask(0).any()


def test_the_data_set_travels_to_workers():
    dataset = ScenesDataset("val", count=3, seed=4)
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy.image(2), dataset.image(2))


def test_defaults():
    assert len(ScenesDataset("train")) == 500 and len(ScenesDataset("val")) == 200
    assert SCENES.num_classes == 13


@pytest.mark.parametrize(("split", "size"), [("test", 128), ("train", 32)])
def test_bad_arguments_are_told(split, size):
    with pytest.raises(DataError, match="found"):
        ScenesDataset(split, size=size)
