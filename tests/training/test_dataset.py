from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weakclip.datasets.images import read_mask, write_mask
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import DataError
from weakclip.training.dataset import TrainingPairs

PLAIN = AugmentSettings(crop_size=48, scale=(1.0, 1.0), flip=0.0, photometric=False)


def test_an_unchanged_pair_is_the_image_and_its_mask(squares: Any, seed_folder: Path):
    item = TrainingPairs(squares, seed_folder, PLAIN)[1, 0]
    assert item["name"] == "sub/1"
    assert item["shown"].nonzero().flatten().tolist() == [0, *squares.labels(1)]
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(item["image"].numpy().transpose(1, 2, 0), squares.image(1))
    np.testing.assert_array_equal(item["mask"].numpy(), read_mask(seed_folder / "sub" / "1.png"))


def test_the_view_is_a_function_of_the_seed(squares: Any, seed_folder: Path):
    pairs = TrainingPairs(squares, seed_folder, AugmentSettings(crop_size=32))
    first, again, other = pairs[0, 5], pairs[0, 5], pairs[0, 6]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    assert not torch.equal(first["image"], other["image"])


def test_missing_masks_are_counted_at_once(squares: Any, seed_folder: Path):
    for name in ("2", "4"):
        (seed_folder / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: no such mask; 2 of 6 images"):
        TrainingPairs(squares, seed_folder, PLAIN)


@pytest.mark.parametrize(
    ("mask", "message"), [(np.zeros((48, 47), np.uint8), r"mask of \(48, 47\)"), (np.full((48, 48), 3, np.uint8), "3")]
)
def test_a_mask_that_does_not_fit_is_named(mask: np.ndarray, message: str, squares: Any, seed_folder: Path):
    write_mask(seed_folder / "0.png", mask, squares.class_set.palette)
    with pytest.raises(DataError, match=rf"0\.png: .*{message}"):
        TrainingPairs(squares, seed_folder, PLAIN)[0, 0]
