"""A run small enough for a test: a tiny CLIP with random weights, eight drawn images, four steps."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from weakclip.config import load_config
from weakclip.pipeline import run_pipeline


def _settings(clip_folder: Path, **data: Any) -> dict[str, Any]:
    """Nested settings of a run of some seconds; `data` replaces the Scenes."""
    inference = {"scales": [1.0], "flip": False, "crop": 64, "stride": 64}
    train = {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
    return {
        "data": data or {"dataset": "scenes", "train_limit": 6, "val_limit": 3, "scene_size": 64},
        "clip": {"source": str(clip_folder)},
        "model": {
            "co_attention_width": 8,
            "co_attention_heads": 2,
            "co_attention_layers": 1,
            "decoder_channels": 8,
        },
        "augment": {"crop_size": 64},
        "loss": {"size": 16},
        "train": train,
        "pseudo_masks": {"inference": inference},
        "retrain": {"model": "small", "train": train, "augment": {"crop_size": 64}},
        "evaluate": {"inference": inference, "pictures": 2},
        "device": "cpu",
    }


@pytest.fixture
def tiny_settings(clip_folder: Path) -> Callable[..., dict[str, Any]]:
    """Builder of nested settings: `tiny_settings(dataset="folder", root=…)`; Scenes where nothing is given."""
    return functools.partial(_settings, clip_folder)


@pytest.fixture
def config_file(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """The tiny run as a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings()))
    return path


@pytest.fixture
def ran(config_file: Path, kept: Path, tmp_path: Path) -> Path:
    """A copy, times included, of the folder of the finished tiny run."""
    if not (kept / "run").exists():
        run_pipeline(load_config(config_file), kept / "run")
    return Path(shutil.copytree(kept / "run", tmp_path / "run"))
