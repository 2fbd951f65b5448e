"""Saliency maps: their files, how the probabilities hear them, and a run that has them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import weakclip
from weakclip.config import parse_config
from weakclip.datasets.base import Sample
from weakclip.datasets.images import read_mask
from weakclip.errors import BrokenFileError, ConfigError, DataError, RunError
from weakclip.inference.pseudo_masks import PseudoMaskSettings, refine_mask
from weakclip.inference.saliency import SaliencyMaps, SaliencySettings, with_saliency
from weakclip.pipeline.context import open_run

SIZE = (6, 8)
LEFT = np.broadcast_to(np.arange(8) < 4, SIZE)
EVEN = np.stack([np.full(SIZE, share, dtype=np.float32) for share in (0.5, 0.3, 0.2)])


def test_what_stands_out_is_no_background_and_keeps_the_order_of_the_classes():
    heard = with_saliency(EVEN, LEFT.astype(np.float32), 1.0)
    assert ((heard[0] < 0.1) == LEFT).all() and ((heard[0] > 0.9) == ~LEFT).all()
    assert heard[1] / heard[2] == pytest.approx(1.5) and heard.sum(axis=0) == pytest.approx(1)


def test_a_class_that_does_not_stand_out_is_around_as_the_background_is():
    """A cat on the left, a sofa on the right; the map shows the cat, and a corner of the sofa."""
    probs = np.stack([np.full(SIZE, 0.2), np.where(LEFT, 0.6, 0.1), np.where(LEFT, 0.2, 0.7)]).astype(np.float32)
    map_ = LEFT.astype(np.float32)
    map_[0, 4] = 1
    heard = with_saliency(probs, map_, 1.0)
    assert (heard.argmax(axis=0) == np.where(map_ > 0, 1, 2)).all()
    assert heard[2] / heard[0] == pytest.approx(probs[2] / probs[0], rel=1e-5)
    assert with_saliency(probs[:1], map_, 1.0) is not None  # an image without labels


def test_a_map_that_misses_all_classes_is_not_heard():
    """A cat that fills the image, of which the map shows an eye."""
    eye = np.zeros(SIZE, dtype=np.float32)
    eye[2, 2] = 1
    assert (with_saliency(EVEN, eye, 1.0) == EVEN).all()
    assert (with_saliency(EVEN, LEFT.astype(np.float32), 1.0) != EVEN).any()


def test_a_map_that_does_not_know_changes_nothing_and_a_weight_is_a_power():
    half = np.full(SIZE, 0.5, dtype=np.float32)
    assert with_saliency(EVEN, half, 3.0) == pytest.approx(EVEN)
    map_ = np.linspace(0.1, 0.9, 48, dtype=np.float32).reshape(SIZE)
    twice = with_saliency(with_saliency(EVEN, map_, 1.0), map_, 1.0)
    assert with_saliency(EVEN, map_, 2.0) == pytest.approx(twice, abs=1e-5)
    sample = Sample("a", np.zeros((*SIZE, 3), dtype=np.uint8), (1, 2))
    settings = PseudoMaskSettings(crf=None, saliency=SaliencySettings(folder="unused"), temperature=4)
    tempered = dataclasses.replace(settings, saliency=None)
    heard, plain = (refine_mask(EVEN, sample, each, saliency=map_).confidence[0, 0] for each in (settings, tempered))
    odds = 0.9 / 0.1  # of the map's first pixel for the background; a temperature does not weaken them
    others = [(EVEN[k, 0, 0] / EVEN[0, 0, 0]) ** 0.25 for k in (1, 2)]
    assert heard == pytest.approx(odds / (odds + sum(others)), rel=1e-3) and plain < heard


def test_where_any_class_may_be_there_only_those_count_that_win_a_pixel() -> None:
    """A cat on the left, of which the map shows half, and a trace of a dog in the middle of that half."""
    map_ = np.zeros(SIZE, dtype=np.float32)
    map_[:3, :4] = 1
    probs = np.stack([np.where(LEFT, 0.3, 0.9), np.where(LEFT, 0.7, 0.1), np.full(SIZE, 1e-7)]).astype(np.float32)
    probs[2, 1, 1] = 1e-3
    pair = with_saliency(probs[:2] / probs[:2].sum(axis=0), map_, 1.0)
    sample = Sample("a", np.zeros((*SIZE, 3), dtype=np.uint8), (1,))
    settings = PseudoMaskSettings(crf=None, saliency=SaliencySettings(folder="unused"), restrict_to_labels=False)
    assert with_saliency(probs, map_, 1.0, known=False)[:2] == pytest.approx(pair, abs=0.02)
    assert (refine_mask(probs, sample, settings, saliency=map_).mask == map_).all()
    background = np.stack([np.full(SIZE, 0.9), np.full(SIZE, 0.1)])
    assert (with_saliency(background, map_, 1.0, known=False) == background).all()  # no class is there


def test_no_weight_is_too_great() -> None:
    heard = with_saliency(EVEN, LEFT.astype(np.float32), 1e4)
    assert heard.sum(axis=0) == pytest.approx(1) and ((heard[0] > 0.5) == ~LEFT).all()


def test_a_mask_follows_the_map_where_the_settings_ask_for_it():
    sample = Sample("a", np.zeros((*SIZE, 3), dtype=np.uint8), (1, 2))
    settings = PseudoMaskSettings(crf=None, saliency=SaliencySettings(folder="unused"))
    map_ = LEFT.astype(np.float32)
    assert (refine_mask(EVEN, sample, settings, saliency=map_).mask == LEFT).all()
    for plain in (settings, dataclasses.replace(settings, saliency=None)):
        given = None if plain.saliency else map_
        assert (refine_mask(EVEN, sample, plain, saliency=given).mask == 0).all()


@pytest.fixture
def ran(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Settings of a run, and its folder: seeds and a trained network."""
    settings = tiny_settings() | {"retrain": {"model": None}}
    for stage in ("seeds", "train"):
        weakclip.pipeline.run_stage(parse_config(settings, origin="tiny"), tmp_path / "run", stage)
    return settings, tmp_path / "run"


def test_a_run_reads_them_and_its_masks_are_made_anew_where_they_change(
    ran: tuple[dict[str, Any], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    settings, out = ran
    dataset, maps = open_run(out).train, tmp_path / "maps"
    maps.mkdir()
    settings["pseudo_masks"] |= {"saliency": {"folder": str(maps), "weight": 9.0}, "crf": None}
    with pytest.raises(DataError, match=rf"maps of none of the .* images; expected {dataset.names[0]}\.png$"):
        weakclip.pipeline.run_stage(parse_config(settings, origin="tiny"), out, "pseudo_masks")
    for index, name in enumerate(dataset.names[1:], start=1):
        left = np.zeros(dataset.size(index), dtype=np.uint8)
        left[:, : left.shape[1] // 2] = 255
        Image.fromarray(left).save(maps / f"{name}.png")
    with caplog.at_level(logging.WARNING, logger="weakclip"):
        weakclip.pipeline.run_stage(parse_config(settings, origin="tiny"), out, "pseudo_masks")
    count = len(dataset)
    assert f"{maps}: no saliency map of 1 of {count} images ({dataset.names[0]}); their masks are" in caplog.text
    masks = [read_mask(out / "3_pseudo_masks/masks" / f"{name}.png") for name in dataset.names]
    assert len(masks) > 1
    for mask in masks[1:]:  # what does not stand out is background
        assert not mask[:, mask.shape[1] // 2 :].any() and mask[:, : mask.shape[1] // 2].all()
    Image.fromarray(np.full(dataset.size(1), 255, dtype=np.uint8)).save(maps / f"{dataset.names[1]}.png")
    with pytest.raises(RunError, match="saliency maps"):
        weakclip.pipeline.run_stage(parse_config(settings, origin="tiny"), out, "pseudo_masks")


def test_bad_maps_are_one_line(ran: tuple[dict[str, Any], Path], tmp_path: Path):
    dataset = open_run(ran[1]).train
    with pytest.raises(DataError, match="no such folder; expected saliency maps"):
        SaliencyMaps(tmp_path / "gone")
    with pytest.raises(ConfigError, match="a weight above 0 expected; found 0"):
        SaliencySettings(folder="x", weight=0)
    path = tmp_path / f"{dataset.names[0]}.png"
    Image.fromarray(np.zeros((3, 5), dtype=np.uint8)).save(path)
    with pytest.raises(BrokenFileError, match=r"a map of \(3, 5\); expected the size of the image"):
        SaliencyMaps(tmp_path).of_sample(dataset, dataset[0])
    size = dataset.stored_size(0)
    coloured = Image.fromarray(np.ones(size, dtype=np.uint8))
    coloured.putpalette([0, 0, 0, 255, 0, 0])  # a mask of classes, as VOC has them
    shares = Image.fromarray(np.eye(*size, dtype=np.uint8))
    for wrong, words in (
        (Image.new("RGB", size[::-1]), "RGB; expected a saliency map, grey"),
        (Image.new("I;16", size[::-1]), "I;16; expected a saliency map, grey"),
        (coloured, "a palette of colours; expected a saliency map, grey"),
        (shares, "no value above 1"),
    ):
        wrong.save(path)
        with pytest.raises(BrokenFileError, match=words):
            SaliencyMaps(tmp_path).of_sample(dataset, dataset[0])


def test_pixels_count_as_shares_of_255(ran: tuple[dict[str, Any], Path], tmp_path: Path):
    dataset = open_run(ran[1]).train
    values = np.random.default_rng(0).integers(0, 256, dataset.stored_size(0), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / f"{dataset.names[0]}.png")
    found = SaliencyMaps(tmp_path).of_sample(dataset, dataset[0])
    assert found is not None and found.dtype == np.float32
    assert found.shape == values.shape == dataset[0].image.shape[:2]
    assert np.abs(found * 255 - values).max() < 1e-4


@pytest.mark.parametrize("how", ["1", "L", "P"])
def test_black_and_white_is_0_and_1_however_it_is_stored(
    how: str, ran: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Programs that make PNGs small store such maps with one bit, or with a palette."""
    dataset = open_run(ran[1]).train
    white = np.random.default_rng(0).integers(0, 2, dataset.stored_size(0), dtype=np.uint8)
    map_ = Image.fromarray(white * 255)
    if how == "P":
        map_ = Image.fromarray(white)
        map_.putpalette([0, 0, 0, 255, 255, 255])
    map_.convert(how).save(tmp_path / f"{dataset.names[0]}.png", bits=1 if how == "P" else 8)
    found = SaliencyMaps(tmp_path).of_sample(dataset, dataset[0])
    assert found is not None and (found == white).all()
