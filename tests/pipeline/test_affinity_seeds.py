"""`seeds.affinity`: maps, labels, a training and a random walk, for each method that makes maps; each part resumes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import bytes_in

import weakclip.pipeline.affinity_stage as stage
import weakclip.seeds.affinitynet.train as training
from weakclip.config import RunConfig, limit_training, load_config, parse_config
from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import ConfigError, RunError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.segmenters.resnet38 import ResNet38

WEIGHTS = "1_seeds/affinitynet/affinitynet.safetensors"
WIDTHS = [4, 4, 8, 8, 16, 16, 32]


@pytest.fixture
def settings(tiny_settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    train = {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
    affinity = {
        "widths": WIDTHS,
        "reductions": [4, 4, 8],
        "radius": 3,
        "train": train,
        "augment": {"crop_size": 64, "scale": [1.0, 1.0], "fit_crop": False, "max_class_share": 1.0},
        "walk": {"log_steps": 3},
    }
    return {**tiny_settings(), "seeds": {"affinity": affinity}}


def parse(settings: dict[str, Any], **seeds: Any) -> RunConfig:
    return parse_config({**settings, "seeds": {**settings["seeds"], **seeds}}, origin="test")


def made(out: Path) -> dict[str, bytes]:
    return {**bytes_in(out, "**/*.png"), **bytes_in(out, WEIGHTS)}


def test_the_stage_refines_its_seeds_without_a_pixel_label(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScenesDataset, "mask", lambda *_: pytest.fail("pixel labels were read"))
    run_stage(parse(settings), tmp_path / "refined", "seeds")
    run_stage(parse(settings, affinity=None), tmp_path / "plain", "seeds")
    dataset = ScenesDataset("train", size=64, count=6)
    for index, name in enumerate(dataset.names):
        for part in ("dense", "affinity_labels"):
            found = set(np.unique(read_mask(tmp_path / f"refined/1_seeds/{part}/{name}.png")).tolist())
            assert found <= {0, 255, *dataset.labels(index)}
    folders = {path.name for path in (tmp_path / "refined/1_seeds").iterdir() if path.is_dir()}
    assert folders == {"cams", "affinity_labels", "affinitynet", "masks", "dense"}
    assert not (tmp_path / "plain/1_seeds/cams").exists()
    refined, plain = (bytes_in(tmp_path / name / "1_seeds/dense") for name in ("refined", "plain"))
    assert refined.keys() == plain.keys() and refined != plain


def test_stage_stopped_in_each_part_ends_the_same(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, stopped = parse(settings), tmp_path / "whole", tmp_path / "stopped"
    run_stage(config, whole, "seeds")

    def stopping(function: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = iter(range(100))

        def stop(*values: Any, **named: Any) -> Any:
            if next(calls) == call:
                signal.raise_signal(signal.SIGINT)
            return function(*values, **named)

        return stop

    parts = (
        (stage, "write_cam", 2),
        (stage, "affinity_label", 1),
        (training, "affinity_loss", 2),
        (stage, "sharpened_masks", 3),
    )
    for module, name, call in parts:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stopping(getattr(module, name), call))
            with pytest.raises(KeyboardInterrupt):
                run_stage(config, stopped, "seeds")
    assert len(list((stopped / "1_seeds/masks").iterdir())) >= 3  # those that threads have begun are finished
    monkeypatch.setattr(stage, "write_cam", lambda *_: pytest.fail("maps were made again"))
    run_stage(config, stopped, "seeds")
    assert made(stopped) == made(whole)


def test_imported_maps_are_refined(settings: dict[str, Any], tmp_path: Path) -> None:
    dataset = ScenesDataset("train", size=64, count=6)
    rng = np.random.default_rng(0)
    (tmp_path / "cams").mkdir()
    for index, name in enumerate(dataset.names):
        maps = {str(label - 1): rng.random((64, 64)).astype(np.float32) for label in dataset.labels(index)}
        np.savez(tmp_path / f"cams/{name}.npz", **maps)
    run_stage(parse(settings, method="imported_cams", folder=str(tmp_path / "cams")), tmp_path / "run", "seeds")
    assert len(bytes_in(tmp_path / "run/1_seeds/dense")) == 6


def test_maps_of_mctformer_are_refined(settings: dict[str, Any], tmp_path: Path) -> None:
    mctformer = {
        "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2},
        "train": settings["train"],
        "augment": {"crop_size": 32},
        "cams": {"scales": [1.0]},
    }
    run_stage(parse(settings, method="mctformer", mctformer=mctformer), tmp_path, "seeds")
    assert len(bytes_in(tmp_path / "1_seeds/dense")) == 6
    assert (tmp_path / "1_seeds/mctformer").is_dir() and (tmp_path / WEIGHTS).is_file()


def test_imported_masks_cannot_be_refined(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'seeds\.affinity'"):
        parse(settings, method="imported_masks", folder="masks")


def test_changed_settings_and_weights_run_the_stage_again(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights, out = tmp_path / "trunk.pth", tmp_path / "run"
    settings["seeds"]["affinity"]["pretrained"] = str(weights)
    torch.save(ResNet38(tuple(WIDTHS)).state_dict(), weights)
    run_stage(parse(settings), out, "seeds")
    torch.save(ResNet38(tuple(WIDTHS)).state_dict(), weights)
    with pytest.raises(RunError, match=r"seeds \(data \(ResNet38 weights\) changed\); add --redo"):
        run_stage(parse(settings), out, "seeds")
    with caplog.at_level(logging.INFO, "weakclip"):
        run_stage(parse(settings), out, "seeds", redo=True)
        assert "seeds: runs again, because data (ResNet38 weights) changed" in caplog.text
        settings["seeds"]["affinity"]["walk"]["beta"] = 4.0
        run_stage(parse(settings), out, "seeds", redo=True)
    assert "seeds.affinity.walk.beta" in caplog.text


def test_a_whole_run_starts_from_refined_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    scores = run_pipeline(parse(settings), tmp_path).scores
    assert [score.subject for score in scores][:2] == ["seeds", "pseudo masks"]


def test_limited_training_limits_affinitynet_too() -> None:
    config = load_config("voc12", ["seeds.affinity={from_scratch: true}"])
    assert config.seeds.affinity is not None and config.seeds.affinity.train.steps == 6610
    limited = limit_training(config, 3).seeds.affinity
    assert limited is not None and (limited.train.steps, limited.train.warmup_steps) == (3, 0)
