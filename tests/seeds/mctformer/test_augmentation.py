"""The augmentation of DeiT: its operations by hand, its ranges over many draws, and no number beside `rng`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from weakclip.seeds.mctformer.augmentation import (
    FILL,
    OPERATIONS,
    DeiTAugmentSettings,
    crop_box,
    deit_augment,
    erase,
)

STILL = DeiTAugmentSettings(crop_size=24, area=(1.0, 1.0), flip=0.0, operations=0, erase=0.0)
NAMES = [
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]


def noise(height: int = 24, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def operated(name: str, image: np.ndarray, strength: float, sign: int = 1) -> np.ndarray:
    return np.asarray(OPERATIONS[NAMES.index(name)](Image.fromarray(image), strength, sign))


def test_a_view_follows_from_the_seed_and_nothing_else() -> None:
    settings, image = DeiTAugmentSettings(crop_size=32), noise(40, 56)
    views = [deit_augment(image, settings, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert views[0].shape == (32, 32, 3) and views[0].dtype == np.uint8
    assert (views[0] == views[1]).all() and (views[0] != views[2]).any()
    assert (deit_augment(noise(), STILL, np.random.default_rng(0)) == noise()).all()
    flipped = deit_augment(noise(), dataclasses.replace(STILL, flip=1.0), np.random.default_rng(0))
    assert (flipped == noise()[:, ::-1]).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (20, 400), (1, 1), (7, 3)])
def test_parts_lie_in_the_image_and_fill_their_ranges(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(height, width, (0.08, 1.0), rng) for _ in range(500)])
    lefts, tops, rights, bottoms = boxes.T
    assert (lefts >= 0).all() and (tops >= 0).all() and (rights <= width).all() and (bottoms <= height).all()
    widths, heights = rights - lefts, bottoms - tops
    assert (widths > 0).all() and (heights > 0).all()
    if min(height, width) > 300:
        shares, ratios = widths * heights / (height * width), widths / heights
        assert 0.075 < shares.min() < 0.12 and shares.max() > 0.8
        assert 0.74 < ratios.min() < 0.78 and 1.28 < ratios.max() < 1.35


def test_tables_are_the_plain_formulas() -> None:
    image = noise()
    assert (operated("invert", image, 0.9) == 255 - image).all()
    assert (operated("posterize", image, 0.9) == image // 128 * 128).all()  # one bit is kept
    assert (operated("posterize", image, 0.0) == image // 16 * 16).all()  # four
    assert (operated("solarize", image, 0.5) == np.where(image < 128, image, 255 - image)).all()
    assert (operated("solarize_add", image, 0.5) == np.where(image < 128, image + 55, image)).all()
    assert (operated("brightness", image, 1.0, -1).astype(int) == image // 10).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_operations_keep_the_size_and_change_something(name: str) -> None:
    image = noise(24, 30) // 2 + 20
    for sign in (1, -1):
        changed = operated(name, image, 0.9, sign)
        assert changed.shape == image.shape and (changed != image).any()
    reach = NAMES.index(name) >= NAMES.index("color") or name in ("rotate", "solarize")
    assert not reach or (operated(name, image, 0.0) == image).all(), "the stronger, the further from the image"


def test_shifts_leave_the_mean_colour_open() -> None:
    image = noise(20, 40)
    for sign, columns in ((1, slice(-16, None)), (-1, slice(0, 16))):
        shifted = operated("translate_x", image, 0.9, sign)  # 0.405 of 40 pixels
        assert (shifted[:, columns] == FILL).all()
    assert (operated("translate_y", image, 1.0)[-9:] == FILL).all()


def test_each_operation_is_left_out_every_second_time() -> None:
    settings = dataclasses.replace(STILL, operations=1)
    image = noise()
    same = [(deit_augment(image, settings, np.random.default_rng(seed)) == image).all() for seed in range(300)]
    assert 0.4 < np.mean(same) < 0.6


def test_a_rectangle_becomes_noise() -> None:
    shares = []
    for seed in range(200):
        pixels = np.full((40, 40, 3), 7, np.uint8)
        erase(pixels, np.random.default_rng(seed))
        rows, columns = np.nonzero((pixels != 7).any(axis=2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        shares.append(height * width / 1600)
        assert len(rows) > 0.98 * height * width and 0.25 < height / width < 4
    assert 0.015 < min(shares) < 0.04 and 0.28 < max(shares) < 0.36
    erased = [
        deit_augment(noise(), dataclasses.replace(STILL, erase=share), np.random.default_rng(1)) for share in (0, 1)
    ]
    assert (erased[0] == noise()).all() and (erased[1] != noise()).any()
