"""Verified masks: they are kept as they are, their classes are labels, and only their images are made again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weakclip.config import RunConfig, parse_config
from weakclip.datasets.images import mask_digest, read_mask, write_mask, write_png
from weakclip.errors import DataError, RunError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.pipeline.context import RunContext
from weakclip.store.layout import ITEMS
from weakclip.store.marks import Mark, MarkFile, now
from weakclip.store.untrusted_text import parse_json

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def config(tiny_settings: Settings) -> RunConfig:
    return parse_config(tiny_settings(), origin="test")


def draw(out: Path, config: RunConfig, index: int, classes: tuple[int, ...], *, unsure: bool = False) -> np.ndarray:
    """Put a verified mask of some classes into a run folder: stripes on background."""
    dataset = RunContext(config, out).train
    mask = np.zeros(dataset.size(index), np.uint8)
    for position, each in enumerate(classes):
        mask[8 * position : 8 * position + 6] = each
    if unsure:
        mask[-4:] = 255
    write_mask(out / "verified" / f"{dataset.names[index]}.png", mask, dataset.class_set.palette)
    return mask


def test_it_is_the_seed_and_the_mask_and_its_classes_are_labels(
    tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weakclip")
    run_stage(config, tmp_path, "seeds")
    before = RunContext(config, tmp_path).train
    new = next(each for each in range(1, 5) if each not in before.labels(1))
    mask = draw(tmp_path, config, 1, (new,))
    name = before.names[1]
    with pytest.raises(RunError, match=r"seeds .*verified masks.*--redo"):
        run_pipeline(config, tmp_path)
    assert "come 4.0 times an epoch" not in caplog.text
    run_pipeline(config, tmp_path, redo=True)
    assert "images with a verified mask (1) come 4.0 times an epoch" in caplog.text
    assert RunContext(config, tmp_path).train.labels(1) == (new,)
    for folder in ("1_seeds/masks", "1_seeds/dense", "3_pseudo_masks/masks"):
        np.testing.assert_array_equal(read_mask(tmp_path / folder / f"{name}.png"), mask)
    assert parse_json((tmp_path / "3_pseudo_masks/metrics.json").read_bytes())["verified"] == 1
    assert "1 mask was drawn or approved by a person" in (tmp_path / "report.html").read_text()


def test_labels_of_what_is_not_known_everywhere_stay(tmp_path: Path, config: RunConfig) -> None:
    before = RunContext(config, tmp_path).train.labels(0)
    new = next(each for each in range(1, 9) if each not in before)
    draw(tmp_path, config, 0, (new,), unsure=True)
    assert RunContext(config, tmp_path).train.labels(0) == tuple(sorted({*before, new}))


def test_only_changed_images_get_new_seeds(tmp_path: Path, config: RunConfig) -> None:
    run_stage(config, tmp_path / "run", "seeds")
    names = RunContext(config, tmp_path).train.names
    masks = tmp_path / "run/1_seeds/masks"
    before = {name: (masks / f"{name}.png").stat().st_ino for name in names}
    draw(tmp_path / "run", config, 2, (1, 2))
    run_stage(config, tmp_path / "run", "seeds", redo=True)
    after = {name: (masks / f"{name}.png").stat().st_ino for name in names}
    assert [name for name in names if before[name] != after[name]] == [names[2]]
    draw(tmp_path / "fresh", config, 2, (1, 2))
    (tmp_path / "fresh/verified").rename(tmp_path / "given")
    (tmp_path / "fresh").rmdir()
    values = {**config.data.__dict__, "verified": str(tmp_path / "given")}
    fresh = parse_config({**_plain(config), "data": values}, origin="test")
    run_stage(fresh, tmp_path / "fresh", "seeds")
    for path in sorted((tmp_path / "fresh/1_seeds").rglob("*")):
        if path.is_file():
            same = tmp_path / "run/1_seeds" / path.relative_to(tmp_path / "fresh/1_seeds")
            assert path.read_bytes() == same.read_bytes(), path


def _plain(config: RunConfig) -> dict[str, Any]:
    from weakclip.store.keys import plain

    values: dict[str, Any] = plain(config)
    return values


def test_another_setting_makes_all_seeds_again(tmp_path: Path, config: RunConfig) -> None:
    run_stage(config, tmp_path, "seeds")
    masks = sorted((tmp_path / "1_seeds/masks").rglob("*.png"))
    before = [path.stat().st_ino for path in masks]
    keep = [os.open(path, os.O_RDONLY) for path in masks]  # no number is given out again
    values = _plain(config)
    values["seeds"]["masks"]["background_power"] = 2.5
    run_stage(parse_config(values, origin="test"), tmp_path, "seeds", redo=True)
    assert not set(before) & {path.stat().st_ino for path in masks}
    for handle in keep:
        os.close(handle)


def test_a_mask_that_is_taken_away_gives_the_image_back(tmp_path: Path, config: RunConfig) -> None:
    run_stage(config, tmp_path, "seeds")
    name = RunContext(config, tmp_path).train.names[1]
    first = (tmp_path / f"1_seeds/masks/{name}.png").read_bytes()
    draw(tmp_path, config, 1, (1, 2, 3))
    run_stage(config, tmp_path, "seeds", redo=True)
    (tmp_path / f"verified/{name}.png").unlink()
    run_stage(config, tmp_path, "seeds", redo=True)
    assert (tmp_path / f"1_seeds/masks/{name}.png").read_bytes() == first


def test_lost_notes_make_all_again(tmp_path: Path, config: RunConfig) -> None:
    run_stage(config, tmp_path, "seeds")
    (tmp_path / "1_seeds" / ITEMS).write_text("[1, 2")
    draw(tmp_path, config, 1, (1,))
    assert run_stage(config, tmp_path, "seeds", redo=True).ran == ("seeds",)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((5, 7), np.uint8), r"verified/.*\.png: mask is 7x5 pixels, its image 64x64; .*remove it"),
        (np.full((64, 64), 77, np.uint8), r"verified/.*\.png: mask holds 77; expected class indices 0 to"),
    ],
)
def test_a_wrong_mask_is_one_line(tmp_path: Path, config: RunConfig, mask: np.ndarray, message: str) -> None:
    dataset = RunContext(config, tmp_path / "run").train
    run_stage(config, tmp_path / "run", "seeds")
    write_mask(tmp_path / "run/verified" / f"{dataset.names[0]}.png", mask, dataset.class_set.palette)
    with pytest.raises(DataError, match=message):
        run_stage(config, tmp_path / "run", "seeds", redo=True)


def test_a_mask_of_no_image_is_named(tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    dataset = RunContext(config, tmp_path).train
    write_mask(tmp_path / "verified/stranger.png", np.zeros((64, 64), np.uint8), dataset.class_set.palette)
    assert len(RunContext(config, tmp_path).verified) == 0
    assert "verified masks of train: " in caplog.text and "1 file left out, the first stranger.png" in caplog.text


def test_names_that_look_the_same_are_the_same(tmp_path: Path, config: RunConfig) -> None:
    dataset = RunContext(config, tmp_path).train
    draw(tmp_path, config, 0, (1,))
    (tmp_path / f"verified/{dataset.names[0]}.png").rename(tmp_path / f"verified/{dataset.names[0]}.PNG")
    assert RunContext(config, tmp_path).verified.names == (dataset.names[0],)


def test_an_object_drawn_as_255_is_told(tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path, config, 0, (255,))
    labels = RunContext(config, tmp_path).verified.labels
    assert "it holds 0 and 255 only, and 255 is of no class" in caplog.text
    assert list(labels.values()) == [RunContext(config, tmp_path).train.labels(0)]


def test_a_coloured_mask_is_one_line_that_says_what_to_do(tmp_path: Path, config: RunConfig) -> None:
    name = RunContext(config, tmp_path).train.names[0]
    write_png(tmp_path / "verified" / f"{name}.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"found RGB; correct this verified mask, or remove it"):
        _ = RunContext(config, tmp_path).verified


@pytest.mark.parametrize(
    ("mark", "used"),
    [
        ({}, False),
        ({"time": "2999-01-01T00:00:00+00:00"}, False),
        ({"time": "2999-01-01"}, False),
        ({"time": "2001-01-01T00:00:00+00:00"}, True),
        ({"time": "2999-01-01T00:00:00+00:00", "pixels": "of another mask"}, True),
        ({"time": "2001-01-01T00:00:00+00:00", "pixels": "this"}, False),
    ],
)
def test_a_bad_mark_takes_away_the_verified_mask_that_it_was_made_on(
    tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture, mark: dict[str, str], used: bool
) -> None:
    before = RunContext(config, tmp_path).train
    name, labels = before.names[0], before.labels(0)
    pixels = mask_digest(draw(tmp_path, config, 0, (1, 2, 3, 4)))
    mark = {key: pixels if value == "this" else value for key, value in mark.items()}
    line = {"image": name, "mark": "bad", **mark}
    (tmp_path / "marks.jsonl").write_text(json.dumps(line) + "\n")
    context = RunContext(config, tmp_path)
    with caplog.at_level("INFO", logger="weakclip"):
        assert (name in context.verified, set(context.bad)) == (used, set() if used else {name})
    if used:
        assert f"1 marks are passed over, for their images have verified masks: {name}" in caplog.text
        return
    assert "1 verified masks are marked bad and are not used" in caplog.text and caplog.text.rstrip().endswith(name)
    assert context.train.labels(0) == labels
    MarkFile(tmp_path / "marks.jsonl").add(Mark(image=name))
    assert name in RunContext(config, tmp_path).verified


def test_the_next_run_seeds_an_image_again_whose_verified_mask_is_marked_bad(tmp_path: Path, config: RunConfig) -> None:
    run_stage(config, tmp_path, "seeds")
    name, seed = RunContext(config, tmp_path).train.names[1], tmp_path / "1_seeds/masks"
    path, marks = seed / f"{name}.png", MarkFile(tmp_path / "marks.jsonl")
    first = path.read_bytes()
    mask = draw(tmp_path, config, 1, (1, 2, 3, 4))
    run_stage(config, tmp_path, "seeds", redo=True)
    np.testing.assert_array_equal(read_mask(path), mask)
    marks.add(Mark(image=name, mark="bad", time=now(), pixels=mask_digest(mask)))
    with pytest.raises(RunError, match=r"verified masks.*--redo"):
        run_stage(config, tmp_path, "seeds")
    run_stage(config, tmp_path, "seeds", redo=True)
    assert path.read_bytes() == first and (tmp_path / f"verified/{name}.png").is_file()
    marks.add(Mark(image=name, time=now()))
    run_stage(config, tmp_path, "seeds", redo=True)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_a_mark_without_its_mask_is_named(tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    name = RunContext(config, tmp_path).train.names[0]
    MarkFile(tmp_path / "marks.jsonl").add(Mark(image=name, mark="verified"))
    assert len(RunContext(config, tmp_path).verified) == 0
    assert f"1 images are marked verified, but no folder of verified masks has a mask of them: {name}" in caplog.text


def test_a_person_is_sure_and_the_scores_say_whose_masks_they_count(
    tmp_path: Path, config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    mask = draw(tmp_path / "drawn", config, 0, (1,), unsure=True)
    name, values = RunContext(config, tmp_path).train.names[0], _plain(config)
    values["data"]["verified"] = str(tmp_path / "drawn/verified")
    values["pseudo_masks"]["confidence"] = True
    run_pipeline(parse_config(values, origin="test"), tmp_path / "run")
    confidence = read_mask(tmp_path / f"run/3_pseudo_masks/confidence/{name}.png")
    np.testing.assert_array_equal(confidence, np.where(mask == 255, 0, 255))
    assert "1 scored images of train have a verified mask" in caplog.text
