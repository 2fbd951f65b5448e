"""Masks, scores and predictions of a step of the training that was kept, in place of its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from folders import bytes_in

from weakclip.config import load_config
from weakclip.datasets import ScenesDataset
from weakclip.errors import ConfigError, RunError, WeightsError
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.modeling import load_weakclip
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.pipeline.views import prediction_settings
from weakclip.prediction import find_model, load_predictor
from weakclip.segmenters.segmenter import load_segmenter


@pytest.fixture
def config_file(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    settings = tiny_settings()
    settings["train"] = {**settings["train"], "steps": 6, "keep_every": 2, "learning_rate": 0.01}
    settings["retrain"] = {"model": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def test_a_kept_step_makes_masks_and_scores_in_the_place_of_the_result(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_pipeline(load_config(config_file), out)
    last, fourth = (load_weakclip(out / "2_train", step=step) for step in (None, 4))
    assert "weights of step 4" in fourth.origin and "of step" not in last.origin
    assert any((value != fourth.trainable_state()[name]).any() for name, value in last.trainable_state().items())
    sixth = load_weakclip(out / "2_train", step=6).trainable_state()
    assert all(torch.equal(value, sixth[name]) for name, value in last.trainable_state().items())

    earlier = load_config(config_file, ["pseudo_masks.step=4"])
    with pytest.raises(RunError, match=r"pseudo_masks \(pseudo_masks\.step: null → 4"):
        run_pipeline(earlier, out)
    assert run_pipeline(earlier, out, redo=True).ran == ("pseudo_masks", "evaluate")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    predictor = load_predictor(out)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        assert torch.equal(predictor.logits_of(pixels), fourth(pixels).logits)
    fingerprints = {find_model(out).fingerprint}
    run_pipeline(load_config(config_file), out, redo=True)
    assert find_model(out).fingerprint not in fingerprints


def test_a_step_that_was_not_kept_is_named(config_file: Path, tmp_path: Path) -> None:
    for stage in ("seeds", "train"):
        run_stage(load_config(config_file), tmp_path / "run", stage)
    with pytest.raises(WeightsError, match=r"5\.safetensors: no weights of step 5; kept are 2, 4, 6; train with"):
        run_stage(load_config(config_file, ["pseudo_masks.step=5"]), tmp_path / "run", "pseudo_masks")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["pseudo_masks.step=5"], "6 steps and keeps every 2"),
        (["pseudo_masks.step=8"], "6 steps and keeps every 2"),
        (["pseudo_masks.step=4", "train.keep_every=null"], "6 steps and keeps none"),
    ],
)
def test_a_step_that_will_not_be_kept_is_told_before_the_training(
    config_file: Path, tmp_path: Path, changes: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"pseudo_masks\.step: \d expected to be kept; the training has {said}: set"):
        run_pipeline(load_config(config_file, changes), tmp_path / "run")
    assert not (tmp_path / "run/1_seeds").exists()


def test_a_kept_step_of_the_retrained_network_is_scored_and_taken(
    tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    settings, out = tiny_settings(), tmp_path / "run"
    settings["retrain"]["train"] |= {"steps": 4, "keep_every": 2, "learning_rate": 0.01, "ema_decay": 0.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run_pipeline(load_config(tmp_path / "config.yaml"), out)
    last, second = (load_segmenter(out / "4_retrain", step=step) for step in (None, 2))
    fourth = load_segmenter(out / "4_retrain", step=4).state_dict()
    assert all(torch.equal(value, fourth[name]) for name, value in last.state_dict().items())
    assert any((value != second.state_dict()[name]).any() for name, value in last.state_dict().items())

    def predictions() -> dict[str, bytes]:
        return bytes_in(out / "5_evaluate/retrained/masks_without_crf")

    fingerprint = find_model(out, network="retrained").fingerprint
    earlier = load_config(tmp_path / "config.yaml", ["evaluate.step=2"])
    with pytest.raises(RunError, match=r"evaluate \(evaluate\.step: null → 2"):
        run_pipeline(earlier, out)
    assert run_pipeline(earlier, out, redo=True).ran == ("evaluate",)
    plain = dataclasses.replace(prediction_settings(earlier, "retrained"), crf=None)
    write_pseudo_masks(second, ScenesDataset("val", size=64, count=3), tmp_path / "second", plain)
    assert predictions() == bytes_in(tmp_path / "second/masks")
    assert find_model(out, network="retrained").fingerprint != fingerprint
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8))
    with torch.no_grad():
        assert torch.equal(load_predictor(out, network="retrained").logits_of(pixels), second(pixels))
    with pytest.raises(WeightsError, match=r"4_retrain/snapshots/3\.safetensors: no weights of step 3; kept are 2, 4;"):
        run_stage(load_config(tmp_path / "config.yaml", ["evaluate.step=3"]), out, "evaluate", redo=True)
    said = r"evaluate\.step: 3 expected to be kept; .* 4 steps and keeps every 2: set a retrain\.train\.keep_every"
    with pytest.raises(ConfigError, match=said):
        run_pipeline(load_config(tmp_path / "config.yaml", ["evaluate.step=3"]), tmp_path / "another")


def test_weakclip_is_trained_further_from_the_kept_step(config_file: Path, tmp_path: Path) -> None:
    """Zero steps of size: what is trained further ends where the kept step was."""
    frozen = ["retrain.model=weakclip", "retrain.train={steps: 1, batch_size: 1, warmup_steps: 0, ema_decay: 0.0, "]
    frozen[1] += "learning_rate: 0.0, min_learning_rate: 0.0}"
    config = load_config(config_file, [*frozen, "retrain.augment.crop_size=64", "pseudo_masks.step=2"])
    out = tmp_path / "run"
    for stage in ("seeds", "train", "pseudo_masks", "retrain"):
        run_stage(config, out, stage)
    further, second = load_weakclip(out / "4_retrain"), load_weakclip(out / "2_train", step=2)
    for name, value in second.named_parameters():
        assert torch.equal(value, further.get_parameter(name)), name
