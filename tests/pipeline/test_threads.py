"""Several images at once on a CPU: every file is the same, byte for byte, as when they are made one after the other."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_encoder import RandomEncoder
from torch import Tensor

from weakclip.config import parse_config
from weakclip.datasets.images import write_png
from weakclip.datasets.scenes import ScenesDataset
from weakclip.inference import InferenceSettings, PseudoMaskSettings, write_pseudo_masks
from weakclip.inference.windows import SharedNetwork
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.store import jobs

METHODS: dict[str, dict[str, Any]] = {
    "clip_gradcam": {"method": "clip_gradcam"},
    "patch_text": {"method": "patch_text"},
    "cosine": {"method": "cosine"},
    "affinity": {
        "affinity": {
            "widths": [4, 4, 8, 8, 16, 16, 32],
            "reductions": [4, 4, 8],
            "radius": 3,
            "train": {"steps": 1, "batch_size": 2, "warmup_steps": 0},
            "augment": {"crop_size": 64},
        }
    },
    "mctformer": {
        "method": "mctformer",
        "mctformer": {
            "from_scratch": True,
            "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2},
            "train": {"steps": 1, "batch_size": 2, "warmup_steps": 0},
            "augment": {"crop_size": 32},
            "cams": {"scales": [1.0]},
        },
    },
}


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    assert found
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """From its call on three are made at once, each with one of torch's threads; gives the threads that made them."""

    def begin() -> list[int]:
        makers, made = list[int](), jobs.Steps._made

        def watched(steps: Any, group: list[Any]) -> list[Any]:
            makers.append(threading.get_ident())
            return made(steps, group)

        assert torch.get_num_threads() == 1
        monkeypatch.setattr(jobs.Steps, "_made", watched)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
        return makers

    return begin


@pytest.mark.parametrize("method", METHODS)
def test_seeds_are_the_same(
    method: str, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, at_once: Callable[[], list[int]]
) -> None:
    config = parse_config({**tiny_settings(), "seeds": METHODS[method]}, origin="a test")
    run_stage(config, tmp_path / "one", "seeds")
    makers = at_once()
    run_stage(config, tmp_path / "several", "seeds")
    assert len(makers) >= 6 and threading.get_ident() not in makers
    made = ("*/*.png", "log.jsonl")
    assert files(tmp_path / "several/1_seeds", *made) == files(tmp_path / "one/1_seeds", *made)


def test_code_of_ones_own_gets_one_image_after_the_other(
    tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, at_once: Callable[[], list[int]]
) -> None:
    settings, makers = tiny_settings(), at_once()
    settings["seeds"] = {"method": "cosine", "masks": {"crf": None}}
    settings["retrain"] = {"model": None}
    clip = RandomEncoder(widths=(4, 6, 10, 12), scales=(4, 2, 1, 0.5), prefix=5)
    run_pipeline(parse_config(settings, origin="a test"), tmp_path / "run", clip=clip)
    dataset = ScenesDataset("val", size=64, count=5)
    plain = PseudoMaskSettings(inference=InferenceSettings(scales=(1.0,), crop=64, stride=64), crf=None)

    def network(images: Tensor) -> Tensor:
        return torch.zeros(len(images), dataset.class_set.num_classes, 4, 4)

    write_pseudo_masks(network, dataset, tmp_path / "masks", plain)
    assert not makers
    write_pseudo_masks(SharedNetwork(network), dataset, tmp_path / "shared", plain)
    assert len(makers) == 5


def test_masks_scores_and_predictions_are_the_same(
    tiny_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    at_once: Callable[[], list[int]],
    call: Callable[..., int],
) -> None:
    settings = tiny_settings()
    settings["pseudo_masks"] |= {"region_bank": {}, "confidence": True}
    one, several, images = tmp_path / "one", tmp_path / "several", tmp_path / "images"
    run_pipeline(parse_config(settings, origin="a test"), one)
    dataset = ScenesDataset("val", size=64, count=5)
    for index, name in enumerate(dataset.names):
        write_png(images / f"{name}.png", dataset.image(index))
    assert call("predict", one, images, "--out", tmp_path / "p_one") == 0
    shutil.copytree(one, several, ignore=shutil.ignore_patterns("[35]_*"))
    makers = at_once()
    run_pipeline(parse_config(settings, origin="a test"), several)
    assert call("predict", several, images, "--out", tmp_path / "p_several") == 0
    assert len(makers) >= 6 + 6 + 3 + 5 and threading.get_ident() not in makers  # regions, masks, scores, predictions
    made = ("[35]_*/*/*.*", "[35]_*/*.jsonl", "[35]_*/metrics.json")
    assert files(several, *made) == files(one, *made)
    made = ("masks/*.png", "json/*.json")
    assert files(tmp_path / "p_several", *made) == files(tmp_path / "p_one", *made)
