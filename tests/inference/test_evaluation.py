from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from weakclip.crf import COCO_CRF, VOC_CRF, CRFParams, Kernel
from weakclip.datasets.base import ImageLabelDataset
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import DataError
from weakclip.inference.evaluation import (
    describe_crf,
    describe_scales,
    score_masks,
    score_network,
    write_scores,
)
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import InferenceSettings


class Grey(ImageLabelDataset):
    """Grey levels that are 60 times the class; picture `unlabelled` has no true mask."""

    has_masks = True

    def __init__(self, masks: list[np.ndarray | None]) -> None:
        super().__init__(ClassSet.from_foreground(["one", "two"]), "val", [f"n{i}" for i in range(len(masks))])
        self.masks = masks

    def image(self, index: int) -> np.ndarray:
        mask = self.masks[index]
        levels = np.zeros((4, 6), np.uint8) if mask is None else np.where(mask == 255, 0, mask)
        return np.repeat(levels[..., None] * 60, 3, axis=2).astype(np.uint8)

    def labels(self, index: int) -> tuple[int, ...]:
        return ()

    def size(self, index: int) -> tuple[int, int]:
        return self.image(index).shape[:2]

    def mask(self, index: int) -> np.ndarray | None:
        return self.masks[index]


TRUTH = np.array([[0, 0, 1, 1, 255, 255]] * 4, dtype=np.uint8)


def levels(images: Tensor) -> Tensor:
    """Logits that read the class from the grey level."""
    classes = torch.arange(3).reshape(1, 3, 1, 1)
    return -((images[:, :1] / 60.0 - classes) ** 2) * 50


def _write(folder: Path, dataset: Grey, masks: list[np.ndarray]) -> None:
    for name, mask in zip(dataset.names, masks, strict=False):
        write_mask(folder / f"{name}.png", mask, dataset.class_set.palette)


def test_one_matrix_over_the_data_set(tmp_path: Path):
    dataset = Grey([TRUTH, np.zeros((2, 2), np.uint8), None])
    wrong = np.array([[0, 0, 1, 0, 2, 2]] * 4, dtype=np.uint8)  # the 2s lie on ignored pixels
    _write(tmp_path, dataset, [wrong, np.zeros((2, 2), np.uint8)])
    (scores,) = score_masks(tmp_path, dataset, subject="seeds")
    assert scores.iou == {"background": pytest.approx(12 / 16), "one": pytest.approx(0.5), "two": None}
    assert scores.precision == {"background": pytest.approx(12 / 16), "one": 1.0, "two": None}
    assert scores.recall == {"background": 1.0, "one": 0.5, "two": None}
    assert scores.mean_iou == pytest.approx((12 / 16 + 0.5) / 2)
    assert scores.pixel_accuracy == pytest.approx(16 / 20)
    assert (scores.subject, scores.split, scores.images) == ("seeds", "val", 2)
    assert (scores.crf, scores.multi_scale) == ("no", "no")


class TwoLists(Grey):
    """Image 1 shows no class, and publications leave it out."""

    labelled_list = "val with labels"

    def labels(self, index: int) -> tuple[int, ...]:
        return () if index == 1 else (1,)


def test_every_number_has_its_list(tmp_path: Path):
    """As MS COCO's val, with and without the images that show no class."""
    empty = np.zeros((2, 2), np.uint8)
    dataset, alone = TwoLists([TRUTH, empty, TRUTH]), Grey([TRUTH, TRUTH])
    wrong = np.array([[0, 0, 1, 0, 1, 1]] * 4, dtype=np.uint8)
    _write(tmp_path, dataset, [TRUTH.clip(max=2), np.ones((2, 2), np.uint8), wrong])
    whole, labelled = score_masks(tmp_path, dataset, subject="masks")
    assert (whole.split, whole.images) == ("val", 3) and (labelled.split, labelled.images) == ("val with labels", 2)
    assert (whole,) == score_masks(tmp_path, Grey([TRUTH, empty, TRUTH]), subject="masks")
    for name, mask in zip(alone.names, (TRUTH.clip(max=2), wrong), strict=True):
        write_mask(tmp_path / "alone" / f"{name}.png", mask, alone.class_set.palette)
    (expected,) = score_masks(tmp_path / "alone", alone, subject="masks")
    assert labelled == dataclasses.replace(expected, split="val with labels")
    assert labelled.mean_iou > whole.mean_iou
    assert len(score_masks(tmp_path / "alone", TwoLists([TRUTH]), subject="masks")) == 1
    inference = InferenceSettings(scales=(1.0,), flip=False, crop=8, stride=8, fit_crop=False)
    rows = score_network(levels, dataset, tmp_path / "network", PseudoMaskSettings(inference=inference, crf=VOC_CRF))
    assert [(row.split, row.images, row.crf == "no") for row in rows] == [
        (split, images, plain) for plain in (True, False) for split, images in (("val", 3), ("val with labels", 2))
    ]


def test_a_map_with_undecided_pixels_is_not_scored(tmp_path: Path):
    dataset = Grey([TRUTH])
    _write(tmp_path, dataset, [TRUTH])
    with pytest.raises(DataError, match=r"n0\.png: holds 255"):
        score_masks(tmp_path, dataset, subject="seeds")


@pytest.mark.parametrize("mask", [np.zeros((4, 5), np.uint8), np.full((4, 6), 7, np.uint8)])
def test_a_mask_that_does_not_fit_is_named(mask: np.ndarray, tmp_path: Path):
    dataset = Grey([TRUTH])
    _write(tmp_path, dataset, [mask])
    with pytest.raises(DataError, match=r"n0\.png"):
        score_masks(tmp_path, dataset, subject="masks")


def test_missing_predictions_and_missing_truth_are_errors(tmp_path: Path):
    with pytest.raises(DataError, match=r"n0\.png: no such file"):
        score_masks(tmp_path, Grey([TRUTH]), subject="masks")
    with pytest.raises(DataError, match="no true masks"):
        score_masks(tmp_path, Grey([None]), subject="masks")


def test_a_network_is_scored_on_its_predictions(tmp_path: Path):
    inference = InferenceSettings(scales=(1.0,), flip=True, crop=6, stride=4, fit_crop=False)
    dataset = Grey([TRUTH, TRUTH[:, ::-1].copy()])
    (scores,) = score_network(levels, dataset, tmp_path, PseudoMaskSettings(inference=inference, crf=None))
    assert scores.mean_iou == 1.0
    assert scores.multi_scale == "scales 1 and flip"
    prediction = read_mask(tmp_path / "masks" / "n0.png")
    assert (prediction[TRUTH != 255] == TRUTH[TRUTH != 255]).all()


def test_a_network_is_scored_before_and_after_the_dense_crf(tmp_path: Path):
    """A lone pixel of another class, which the dense CRF takes away; a lost prediction is made again."""
    inference = InferenceSettings(scales=(1.0,), flip=False, crop=20, stride=20, fit_crop=False)
    smooth = CRFParams(kernels=(Kernel(sxy=3, weight=20),))
    truth = np.zeros((20, 20), np.uint8)
    truth[10, 10] = 1
    dataset = Grey([truth])
    settings = PseudoMaskSettings(inference=inference, crf=smooth)
    plain, sharpened = score_network(levels, dataset, tmp_path, settings)
    assert (plain.crf, plain.mean_iou) == ("no", 1.0)
    assert sharpened.crf == describe_crf(smooth) and sharpened.iou["one"] == 0
    (tmp_path / "masks_without_crf/n0.png").unlink()
    assert score_network(levels, dataset, tmp_path, settings) == (plain, sharpened)
    assert np.array_equal(read_mask(tmp_path / "masks_without_crf/n0.png"), truth)


def test_scores_are_plain_json(tmp_path: Path):
    dataset = Grey([TRUTH])
    _write(tmp_path, dataset, [np.where(TRUTH == 255, 0, TRUTH).astype(np.uint8)])
    words = {"crf": describe_crf(COCO_CRF), "multi_scale": describe_scales(InferenceSettings())}
    write_scores(tmp_path / "metrics.json", score_masks(tmp_path, dataset, subject="pseudo masks", **words))
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert row["iou"]["two"] is None
    assert row["mean_iou"] == 1.0
    assert row["crf"].startswith("sxy 1 weight 3")
    assert row["multi_scale"] == "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75 and flip"
