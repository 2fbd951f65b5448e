"""`seeds.method: mctformer`: the stage trains on labels, goes on where it stopped, takes a trained network as it is."""

from __future__ import annotations

import dataclasses
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import bytes_in

import weakclip.seeds.mctformer.train as training
from weakclip.config import RunConfig, limit_training, load_config, parse_config
from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import ConfigError, WeightsError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.seeds import SeedMasks

WEIGHTS = "1_seeds/mctformer/mctformer.safetensors"


@pytest.fixture
def settings(tiny_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    train = {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
    mctformer = {
        "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2},
        "train": train,
        "augment": {"crop_size": 32},
        "cams": {"scales": [1.0]},
    }
    return {**tiny_settings(), "seeds": {"method": "mctformer", "mctformer": mctformer}}


def parse(settings: dict[str, Any], **mctformer: Any) -> RunConfig:
    seeds = settings["seeds"]
    changed = {**settings, "seeds": {**seeds, "mctformer": {**seeds["mctformer"], **mctformer}}}
    return parse_config(changed, origin="test")


def made(out: Path) -> dict[str, bytes]:
    return {**bytes_in(out, "**/*.png"), **bytes_in(out, WEIGHTS)}


def test_the_stage_trains_and_then_writes_seeds_without_a_pixel_label(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScenesDataset, "mask", lambda *_: pytest.fail("pixel labels were read"))
    run_stage(parse(settings), tmp_path, "seeds")
    dataset = ScenesDataset("train", size=64, count=6)
    for index, name in enumerate(dataset.names):
        found = set(np.unique(read_mask(tmp_path / f"1_seeds/dense/{name}.png")).tolist())
        assert found <= {0, *dataset.labels(index)}
    assert (tmp_path / WEIGHTS).is_file()
    assert (tmp_path / "1_seeds/mctformer/log.jsonl").read_text().count("\n") == 4
    assert (tmp_path / "1_seeds/log.jsonl").read_text().count("\n") == 6


def test_stage_stopped_in_training_and_in_writing_ends_the_same(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, stopped = parse(settings), tmp_path / "whole", tmp_path / "stopped"
    run_stage(config, whole, "seeds")
    steps, seeds = iter(range(10)), iter(range(10))

    def stop_in_step(*values: Any) -> Any:
        if next(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return contrast(*values)

    def stop_in_image(*values: Any, **named: Any) -> SeedMasks:
        if next(seeds) == 3:
            raise KeyboardInterrupt
        return masks(*values, **named)

    import weakclip.pipeline.seed_stage as stage

    contrast, masks = training.class_token_contrast, stage.seed_masks
    for module, name, stop in ((training, "class_token_contrast", stop_in_step), (stage, "seed_masks", stop_in_image)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                run_stage(config, stopped, "seeds")
    assert 3 <= len(list((stopped / "1_seeds/masks").iterdir())) < 6  # those that threads have begun are finished
    run_stage(config, stopped, "seeds")
    assert made(stopped) == made(whole)


def test_trained_network_is_used_as_it_is(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_stage(parse(settings), tmp_path / "first", "seeds")
    weights = tmp_path / "trained.safetensors"
    weights.write_bytes((tmp_path / "first" / WEIGHTS).read_bytes())
    config, out = parse(settings, checkpoint=str(weights)), tmp_path / "second"
    run_stage(config, out, "seeds")
    assert not (out / "1_seeds/mctformer").exists()
    for part in ("masks", "dense"):
        for path in (out / "1_seeds" / part).iterdir():
            assert path.read_bytes() == (tmp_path / "first/1_seeds" / part / path.name).read_bytes()
    run_stage(dataclasses.replace(parse(settings), seed=1), tmp_path / "third", "seeds")
    assert (tmp_path / "third" / WEIGHTS).read_bytes() != weights.read_bytes()
    weights.write_bytes((tmp_path / "third" / WEIGHTS).read_bytes())
    with caplog.at_level(logging.INFO, "weakclip"):
        run_stage(config, out, "seeds", redo=True)
    assert "seeds: runs again, because data (MCTformer+ weights) changed" in caplog.text


def test_network_of_other_classes_is_one_clear_line(settings: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "three.safetensors"
    model = training.MCTformer(4, image_size=32, patch_size=8, width=16, depth=2, heads=2)
    training.save_mctformer(model, weights)
    with pytest.raises(WeightsError, match="of 3 classes for a data set of 12"):
        run_stage(parse(settings, checkpoint=str(weights)), tmp_path / "run", "seeds")


def test_a_whole_run_starts_from_these_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    scores = run_pipeline(parse(settings), tmp_path).scores
    assert [score.subject for score in scores][:2] == ["seeds", "pseudo masks"]


def test_limited_training_limits_the_seeds_training_where_there_is_one() -> None:
    config = load_config("demo", ["seeds.method=mctformer"])
    train = limit_training(config, 3).seeds.mctformer.train
    assert (train.steps, train.warmup_steps) == (3, 3)
    assert limit_training(load_config("demo"), 3).seeds == load_config("demo").seeds


def test_the_folder_is_for_imported_seeds_alone(settings: dict[str, Any]) -> None:
    settings["seeds"]["folder"] = "seeds"
    with pytest.raises(ConfigError, match=r"unknown key 'seeds\.folder'"):
        parse(settings)
    with pytest.raises(ConfigError, match=r"seeds\.folder: this key is required and missing"):
        parse_config({**settings, "seeds": {"method": "imported_cams"}}, origin="test")
