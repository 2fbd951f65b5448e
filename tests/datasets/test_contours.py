"""Polygons go round exactly the pixels of a mask, or within the tolerance asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weakclip.datasets.contours import mask_polygons, simplified
from weakclip.datasets.regions import decode_runs, encode_runs, fill_polygon, pack_runs, unpack_runs

masks = st.tuples(st.integers(1, 13), st.integers(1, 13)).flatmap(lambda size: arrays(bool, size))


def filled(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pixels that an odd number of polygons covers: with an overlap, they would not be the mask."""
    return np.logical_xor.reduce([np.zeros(size, bool), *(fill_polygon(polygon, size) for polygon in polygons)])


def blobs(seed: int, size: tuple[int, int] = (61, 83)) -> np.ndarray:
    """Round regions with round holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, bool)
    for number in range(7):
        row, column, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(3, 20)
        mask[(y - row) ** 2 + (x - column) ** 2 < radius**2] = number % 3 < 2
    return mask


@settings(max_examples=200, deadline=None)
@given(masks)
def test_the_outline_fills_to_the_mask(pixels: np.ndarray) -> None:
    polygons = mask_polygons(pixels)
    assert np.array_equal(filled(polygons, pixels.shape), pixels)
    assert all(len(polygon) >= 4 for polygon in polygons)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_a_polygon_and_its_reverse_fill_alike(pixels: np.ndarray) -> None:
    for polygon in mask_polygons(pixels, tolerance=1):
        assert np.array_equal(fill_polygon(polygon, pixels.shape), fill_polygon(polygon[::-1], pixels.shape))


def test_regions_that_touch_at_a_corner_are_apart_and_a_hole_is_not_a_region() -> None:
    assert len(mask_polygons(np.eye(5, dtype=bool))) == 5
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    assert len(mask_polygons(ring)) == 1
    ring[2, 2] = True
    assert len(mask_polygons(ring)) == 2
    assert mask_polygons(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_a_tolerance_leaves_out_corners_and_is_kept(tolerance: float) -> None:
    """Every pixel that changes lies no further from an edge of the outline than the tolerance and half its length."""
    for seed in range(5):
        pixels = blobs(seed)
        polygons = mask_polygons(pixels, tolerance=tolerance)
        around = np.pad(pixels, 1).astype(int)
        across, along = np.argwhere(np.diff(around, axis=0)), np.argwhere(np.diff(around, axis=1))
        outline = np.concatenate([across - np.array([0, 0.5]), along - np.array([0.5, 0])])  # the middles of its edges
        for row, column in np.argwhere(filled(polygons, pixels.shape) != pixels):
            nearest = np.linalg.norm(outline - (row + 0.5, column + 0.5), axis=1).min()
            assert nearest <= tolerance + 0.5
        assert sum(map(len, polygons)) < sum(map(len, mask_polygons(pixels)))


def test_what_would_vanish_is_kept() -> None:
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    assert np.array_equal(simplified(square, 5.0), square)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_run_lengths_round_trip_and_equal_those_of_pycocotools(pixels: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    runs = encode_runs(pixels)
    assert np.array_equal(decode_runs(runs, pixels.shape), pixels)
    assert unpack_runs(pack_runs(runs)) == runs
    assert np.array_equal(decode_runs(encode_runs(pixels, order="C"), pixels.shape[::-1]).T, pixels)
    assert pack_runs(runs) == coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()


def test_long_runs_are_packed() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((2000, 1500), bool)
    pixels[3:1999, 700:1400] = True
    assert pack_runs(encode_runs(pixels)) == coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
