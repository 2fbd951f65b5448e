"""Probabilities of another shape than their photo: the advice is the one that helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.crf import VOC_CRF
from weakclip.crf.files import crf_file
from weakclip.errors import DataError

LAST = "the labels are the last axis of the probabilities: move it before height and width"
TURNED = "height and width are exchanged: turn the probabilities as the image is turned"
RESIZE = "resize one of them to the other's height and width"


@pytest.mark.parametrize(
    ("image", "probs", "advice"), [("exif6.jpg", "exif6_raw_size.npy", TURNED), ("i.png", "hwk.npy", LAST)]
)
def test_found_probabilities(cases: Path, tmp_path: Path, image: str, probs: str, advice: str) -> None:
    folder = cases / "advice_that_misleads"
    with pytest.raises(DataError, match=f"{probs} for .*{image}: .*{advice}"):
        crf_file(folder / image, folder / probs, tmp_path / "out.png", VOC_CRF)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((6, 8, 3), LAST), ((6, 8, 21), LAST), ((3, 8, 6), TURNED), ((3, 6, 9), RESIZE), ((8, 6, 3), RESIZE)],
)
def test_advice_for_a_shape(tmp_path: Path, shape: tuple[int, ...], advice: str) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
    np.save(tmp_path / "probs.npy", np.full(shape, 1 / 3, np.float32))
    with pytest.raises(DataError, match=advice):
        crf_file(tmp_path / "photo.png", tmp_path / "probs.npy", tmp_path / "out.npy", VOC_CRF)


def test_logits_are_told_to_take_softmax(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
    np.save(tmp_path / "probs.npy", np.full((3, 6, 8), -2, np.float32))
    with pytest.raises(DataError, match="lowest probability is -2, expected 0 or more; apply softmax to logits"):
        crf_file(tmp_path / "photo.png", tmp_path / "probs.npy", tmp_path / "out.npy", VOC_CRF)
