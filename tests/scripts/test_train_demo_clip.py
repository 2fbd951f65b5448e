"""The script that makes the demo CLIP: it runs, continues after an interruption, and its texts tell the truth."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from weakclip.clip import load_clip
from weakclip.datasets.scene_drawing import draw_scene
from weakclip.datasets.scenes import ScenesDataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_demo_clip.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_demo_clip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_demo_clip", module)  # its worker processes look the module up by name
    spec.loader.exec_module(module)
    return module


def test_a_short_training_gives_a_folder_that_load_clip_reads(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ScenesDataset", lambda split, seed: ScenesDataset(split, count=12, seed=seed))
    out, work = tmp_path / "out", tmp_path / "work"
    short = ["--work", str(work), "--out", str(out), "--pictures", "4", "--teacher-steps", "1"]
    short += ["--batch", "2", "--teacher-batch", "2", "--contrast-steps", "1"]
    monkeypatch.setattr(sys, "argv", ["train_demo_clip.py", *short, "--steps", "1"])
    script.main()
    monkeypatch.setattr(sys, "argv", ["train_demo_clip.py", *short, "--steps", "2"])
    script.main()
    record = json.loads((out / "training.json").read_text())
    assert [entry["step"] for entry in record["log"]["image_tower"]] == [1, 2]
    assert [entry["step"] for entry in record["log"]["contrast"]] == [1]
    clip = load_clip(str(out))
    features = clip.encode_image(torch.zeros(1, 3, 128, 128))
    assert features.grid == (16, 16)
    assert clip.encode_text(["a photo of a cat"]).shape == (1, 128)
    assert (out / "model.safetensors").stat().st_size <= 8_000_000


def test_texts_are_true_of_exactly_the_pictures_that_show_them(script):
    scenes = [draw_scene((7, 2, index)) for index in range(30)]
    facts = [{"objects": [list(item) for item in scene.objects], "grounds": list(scene.grounds)} for scene in scenes]
    texts = script.Texts(facts, np.random.default_rng(0))
    for row, scene in enumerate(scenes):
        classes = {name for name, _ in scene.objects}
        for column, name in enumerate(script.CLASSES):
            assert texts.truth[row, column].item() == (name in classes)
        for column, ground in enumerate(script.GROUND_NAMES, start=len(script.CLASSES)):
            assert texts.truth[row, column].item() == (ground in scene.grounds)
    assert texts.truth.any(dim=0)[len(script.CLASSES) + len(script.GROUND_NAMES) :].all()


def test_a_true_pair_that_is_closer_costs_less(script):
    truth = torch.eye(3, dtype=torch.bool)
    near, far = torch.eye(3) * 5, torch.zeros(3, 3)
    assert script.contrast(near, truth) < script.contrast(far, truth)


def test_early_reading_is_what_the_class_token_attends_to_beside_itself(script):
    config = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2,
                              image_size=8, patch_size=4, attn_implementation="eager")  # fmt: skip
    tower = CLIPVisionModel(config).eval()
    early = script.EarlyReading(tower)
    attentions = tower(torch.randn(2, 3, 8, 8), output_attentions=True).attentions
    expected = -torch.stack([attention[:, :, 0, 0].log().mean() for attention in attentions[:-1]]).mean()
    torch.testing.assert_close(early.loss(), expected)
    early.forget()
    with torch.no_grad():
        tower(torch.randn(2, 3, 8, 8))
    assert not any(early.found.values())
