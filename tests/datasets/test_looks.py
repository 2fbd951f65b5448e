"""Masks on the screen: their colours and outlines show on any photo, and the files keep the colours of the data set."""

from __future__ import annotations

import numpy as np
import pytest

from weakclip.datasets.classes import COCO14, VOC12, ClassSet
from weakclip.datasets.looks import outlines, overlay, screen_palette

BACKGROUNDS = {"black": 0, "dark": 40, "grey": 128, "light": 215, "white": 255}


def lab(color: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB, 0…255."""
    value = np.asarray(color, dtype=float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    scaled = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """The contrast ratio of WCAG 2, 1…21."""

    def luminance(color: np.ndarray) -> float:
        value = np.asarray(color, dtype=float) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("class_set", [VOC12, COCO14], ids=["21 classes", "81 classes"])
@pytest.mark.parametrize("value", BACKGROUNDS.values(), ids=BACKGROUNDS)
def test_every_class_shows_on_every_background(class_set: ClassSet, value: int) -> None:
    palette, image = screen_palette(class_set), np.full((24, 24, 3), value, np.uint8)
    mask = np.zeros((24, 24), np.uint8)
    for index in range(1, class_set.num_classes):
        mask[8:16, 8:16] = index
        shown = overlay(image, mask, palette)
        fill, line, halo = shown[12, 12], shown[8, 12], shown[7, 12]
        assert np.linalg.norm(lab(fill) - lab(image[0, 0])) > 12, class_set.names[index]
        assert contrast(line, halo) >= 3, class_set.names[index]  # one of both stands out from what is round it
        assert max(contrast(line, image[0, 0]), contrast(halo, image[0, 0])) >= 3, class_set.names[index]


def test_classes_are_told_apart() -> None:
    colors = lab(screen_palette(VOC12)[1:21])
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(20)
    assert distances.min() > 18
    assert len(np.unique(screen_palette(VOC12)[1:255], axis=0)) == 254


def test_colours_that_a_person_chose_stay_and_files_keep_theirs() -> None:
    own = ClassSet(names=("background", "cat", "dog"), colors=((0, 0, 0), (1, 2, 3), (0, 128, 0)))
    assert screen_palette(own)[1].tolist() == [1, 2, 3]
    assert screen_palette(own)[2].tolist() == screen_palette(VOC12)[2].tolist() != [0, 128, 0]
    assert VOC12.palette[1].tolist() == [128, 0, 0]


def test_an_overlay_colours_objects_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    mask = np.zeros((12, 12), np.uint8)
    mask[:4], mask[8:] = 255, 3
    shown = overlay(image, mask, screen_palette(VOC12))
    assert np.array_equal(shown[:7], image[:7])  # ignored and background, but for the dark line at the object
    assert (shown[7].astype(int) < 60).all()
    assert np.array_equal(shown[8], np.tile(screen_palette(VOC12)[3], (12, 1)))
    assert not np.array_equal(shown[9:], image[9:])


def test_outlines_run_between_classes_and_grow_with_the_photo() -> None:
    mask = np.zeros((3, 6), np.uint8)
    mask[:, 2:4], mask[:, 4:] = 1, 2
    assert outlines(mask)[1].tolist() == [0, 255, 1, 1, 2, 0]
    assert not outlines(np.full((5, 5), 3, np.uint8)).any()  # the border of the photo is none
    large = np.zeros((4, 2048), np.uint8)
    large[:, 1024:] = 1
    assert np.flatnonzero(outlines(large)[0]).tolist() == list(range(1020, 1028))
