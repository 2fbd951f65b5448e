"""The CLIP that ships with the package: small, whole, and good enough for the demo to stand on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import weakclip
from weakclip.clip import load_clip
from weakclip.datasets.scenes import SCENES, ScenesDataset

FOLDER = Path(weakclip.__file__).parent / "clip" / "demo"


@pytest.fixture(scope="module")
def clip():
    return load_clip("demo")


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    ranked = truth[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def test_zero_shot_map_on_scenes_val_is_what_the_record_says(clip):
    dataset = ScenesDataset("val")
    texts = functional.normalize(clip.encode_text([f"a photo of a {name}" for name in SCENES.names[1:]]), dim=-1)
    images = torch.from_numpy(np.stack([dataset.image(i) for i in range(len(dataset))])).permute(0, 3, 1, 2)
    tokens = torch.cat([clip.encode_image(chunk).tokens[:, 0] for chunk in images.split(50)])
    scores = (functional.normalize(tokens, dim=-1) @ texts.T).numpy()
    labels = np.array([[k in dataset.labels(i) for k in range(1, 13)] for i in range(len(dataset))])
    found = np.mean([average_precision(scores[:, k], labels[:, k]) for k in range(12)])
    record = json.loads((FOLDER / "training.json").read_text())
    assert found >= 0.90
    assert found == pytest.approx(record["zero_shot_map_scenes_val"], abs=0.005)


def test_patch_tokens_localise(clip):
    """The patch that is most like a class lies on an object of that class in most pictures."""
    dataset = ScenesDataset("val", count=60)
    texts = functional.normalize(clip.encode_text([f"a photo of a {name}" for name in SCENES.names[1:]]), dim=-1)
    hits = []
    for index in range(len(dataset)):
        image = torch.from_numpy(dataset.image(index)).permute(2, 0, 1)[None]
        patches = functional.normalize(clip.encode_image(image).tokens[0, 1:], dim=-1)
        mask = dataset.mask(index).reshape(16, 8, 16, 8).swapaxes(1, 2).reshape(256, 64)
        for label in dataset.labels(index):
            hits.append((mask[int((patches @ texts[label - 1]).argmax())] == label).any())
    assert np.mean(hits) > 0.8


def test_it_is_small_and_an_ordinary_transformers_folder(clip):
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert {"config.json", "tokenizer.json", "training.json"} <= {path.name for path in FOLDER.iterdir()}
    assert len(clip.tap_layers) == 4
    assert clip.patch_size == 8
