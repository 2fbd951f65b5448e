"""Laws of the training augmentation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.transforms import (
    PAD_COLOR,
    AugmentSettings,
    augment,
    largest_class_share,
    photometric_distortion,
    shifted_hsv,
)

STILL = {"flip": 0.0, "photometric": False, "max_class_share": 1.0}


def smooth_image(height: int, width: int) -> np.ndarray:
    """Red grows with the column, green with the row: a pixel's colour says where it came from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 / width, rows * 255 / height, 0 * rows + 128], axis=2).astype(np.uint8)


def random_mask(height: int, width: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 4, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]


@pytest.mark.parametrize("size", [(1, 1), (31, 90), (64, 64), (200, 33)])
@pytest.mark.parametrize("fit_crop", [True, False])
def test_the_result_has_the_crop_size_and_the_same_seed_gives_the_same_bytes(
    size: tuple[int, int], fit_crop: bool
) -> None:
    image, mask = smooth_image(*size), random_mask(*size)
    settings = AugmentSettings(crop_size=64, fit_crop=fit_crop)
    for seed in range(5):
        first = augment(image, mask, settings, np.random.default_rng(seed))
        again = augment(image, mask, settings, np.random.default_rng(seed))
        assert first[0].shape == (64, 64, 3)
        assert first[1].shape == (64, 64)
        assert first[0].dtype == first[1].dtype == np.uint8
        assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_the_arguments_are_left_as_they_are() -> None:
    image, mask = smooth_image(40, 50), random_mask(40, 50)
    copies = image.copy(), mask.copy()
    augment(image, mask, AugmentSettings(crop_size=32), np.random.default_rng(0))
    assert np.array_equal(image, copies[0])
    assert np.array_equal(mask, copies[1])


def test_without_randomness_it_is_the_identity() -> None:
    image, mask = smooth_image(48, 48), random_mask(48, 48)
    out = augment(image, mask, AugmentSettings(crop_size=48, scale=(1, 1), **STILL), np.random.default_rng(0))
    assert np.array_equal(out[0], image)
    assert np.array_equal(out[1], mask)


def test_a_flip_mirrors_image_and_mask_together() -> None:
    image, mask = smooth_image(48, 48), random_mask(48, 48)
    settings = AugmentSettings(crop_size=48, scale=(1, 1), **STILL | {"flip": 1.0})
    out = augment(image, mask, settings, np.random.default_rng(0))
    assert np.array_equal(out[0], image[:, ::-1])
    assert np.array_equal(out[1], mask[:, ::-1])


def test_a_small_image_is_padded_with_the_mean_colour_and_255() -> None:
    image, mask = smooth_image(20, 30), random_mask(20, 30)
    settings = AugmentSettings(crop_size=40, scale=(1, 1), fit_crop=False, **STILL)
    out_image, out_mask = augment(image, mask, settings, np.random.default_rng(0))
    assert np.array_equal(out_image[:20, :30], image)
    assert np.array_equal(out_mask[:20, :30], mask)
    outside = np.ones((40, 40), bool)
    outside[:20, :30] = False
    assert (out_mask[outside] == IGNORE_INDEX).all()
    assert (out_image[outside] == PAD_COLOR).all()


@pytest.mark.parametrize("seed", range(12))
def test_image_and_mask_stay_aligned_under_resize_crop_and_flip(seed: int) -> None:
    """The colour tells the source position of every pixel; the mask must come from there too."""
    height, width = 150, 200
    image = smooth_image(height, width)
    mask = (image[..., 0] // 64 + 4 * (image[..., 1] // 64)).astype(np.uint8)
    settings = AugmentSettings(crop_size=100, photometric=False)
    out_image, out_mask = augment(image, mask, settings, np.random.default_rng(seed))
    told = (out_image[..., 0] // 64 + 4 * (out_image[..., 1] // 64)).astype(np.uint8)
    inside = out_mask != IGNORE_INDEX
    edge = (np.minimum(out_image[..., :2] % 64, 63 - out_image[..., :2] % 64) < 4).any(axis=2)
    assert np.array_equal(told[inside & ~edge], out_mask[inside & ~edge])
    assert (inside & ~edge).sum() > 500


@pytest.mark.parametrize("seed", range(3))
def test_the_patch_equals_resizing_everything_and_cropping(seed: int) -> None:
    image = np.random.default_rng(9).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    settings = AugmentSettings(crop_size=64, scale=(1.6, 1.6), fit_crop=False, **STILL)
    out, _ = augment(image, random_mask(90, 120), settings, np.random.default_rng(seed))
    whole = np.asarray(Image.fromarray(image).resize((192, 144), Image.Resampling.BILINEAR)).astype(int)
    views = np.lib.stride_tricks.sliding_window_view(whole, (64, 64), axis=(0, 1))
    probes = np.abs(views[..., 2:-2:12, 2:-2:12] - out[2:-2:12, 2:-2:12].transpose(2, 0, 1)).max(axis=(2, 3, 4))
    top, left = np.unravel_index(probes.argmin(), probes.shape)
    assert np.abs(whole[top : top + 64, left : left + 64] - out)[2:-2, 2:-2].max() <= 1


def test_a_crop_of_one_class_is_drawn_again() -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[150:250, 150:250] = 1
    image = smooth_image(400, 400)

    def shares(limit: float) -> np.ndarray:
        settings = AugmentSettings(crop_size=150, scale=(1, 1), fit_crop=False, max_class_share=limit)
        crops = (augment(image, mask, settings, np.random.default_rng(seed))[1] for seed in range(60))
        return np.array([largest_class_share(crop) for crop in crops])

    assert (shares(1.0) < 0.75).mean() < 0.55
    assert (shares(0.75) < 0.75).mean() > 0.95


def test_scales_fill_their_range() -> None:
    image, mask = smooth_image(64, 64), np.zeros((64, 64), np.uint8)
    settings = AugmentSettings(crop_size=128, fit_crop=True, **STILL | {"scale": (0.5, 1.0)})
    filled = [(augment(image, mask, settings, np.random.default_rng(seed))[1] == 0).sum() ** 0.5 for seed in range(100)]
    assert 64 <= min(filled) < 70
    assert 122 < max(filled) <= 128


def test_distortion_changes_colours_within_its_bounds_and_is_sometimes_nothing() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [np.asarray(photometric_distortion(grey, np.random.default_rng(seed))) for seed in range(300)]
    assert all(np.ptp(value) == 0 for value in values)  # neither hue nor saturation colours a grey
    levels = np.array([value[0, 0, 0] for value in values])
    assert 34 <= levels.min() < 50
    assert 170 < levels.max() <= 198
    assert 0.15 < (levels == 100).mean() < 0.35


def test_distortion_turns_hue_and_saturation() -> None:
    red = Image.new("RGB", (2, 2), (200, 60, 60))
    views = [photometric_distortion(red, np.random.default_rng(seed)).convert("HSV") for seed in range(300)]
    hues = np.array([((view.getpixel((0, 0))[0] + 128) % 256 - 128) * 360 / 256 for view in views])
    saturations = np.array([view.getpixel((0, 0))[1] for view in views])
    assert -40 < hues.min() < -25
    assert 25 < hues.max() < 40
    assert saturations.min() < 110
    assert saturations.max() > 230


def test_a_shift_of_hue_saturation_and_value_is_whole_and_bounded() -> None:
    """Each of the three by -10 to 10, the hue in steps of two degrees, always together."""
    red = Image.new("RGB", (2, 2), (200, 60, 60))  # hue 0, saturation 178 or 179, value 200
    views = np.array(
        [shifted_hsv(red, 10, np.random.default_rng(seed)).convert("HSV").getpixel((0, 0)) for seed in range(400)]
    )
    degrees = ((views[:, 0] + 128) % 256 - 128) * 360 / 256
    assert -22 <= degrees.min() < -18 and 18 < degrees.max() <= 22
    assert 166 <= views[:, 1].min() < 171 and 186 < views[:, 1].max() <= 191
    assert (views[:, 2].min(), views[:, 2].max()) == (190, 210)
    assert len(np.unique(views[:, 2])) == 21
    white = np.asarray(shifted_hsv(Image.new("RGB", (1, 1), (255, 255, 255)), 10, np.random.default_rng(0)))
    assert white.min() >= 240 - 10, "saturation and value end at their bounds, and do not go round"


def test_the_shift_is_taken_in_the_place_of_ssds_colours() -> None:
    image, mask = smooth_image(40, 40), np.zeros((40, 40), np.uint8)
    still = AugmentSettings(crop_size=40, **STILL | {"scale": (1.0, 1.0)})
    views = [
        augment(image, mask, dataclasses.replace(still, hsv_shift=most), np.random.default_rng(3))[0]
        for most in (0, 10)
    ]
    assert (views[0] == image).all() and (views[1] != image).any()
    assert np.abs(views[1].astype(int) - image).max() <= 105, "20 of the 60 degrees between two colours, and 10 twice"


def test_an_unlabelled_mask_counts_as_one_class() -> None:
    assert largest_class_share(np.full((3, 3), 255, np.uint8)) == 1.0
