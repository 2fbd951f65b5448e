"""The scripts in examples/ run as they are."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask, write_png
from weakclip.segmenters.segmenter import SMALL, build_segmenter, save_segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, list[str]]:
    """What each script is called with."""
    save_segmenter(build_segmenter(SMALL, ClassSet.from_foreground(["cat", "dog"])), tmp_path / "network")
    write_png(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8))
    crf = [str(tmp_path / name) for name in ("network", "photo.png", "mask.png")]
    own_encoder = [str(tmp_path / "run"), "--steps", "2", "--images", "3"]
    return {"own_dataset": [], "own_clip": ["demo"], "crf_of_any_network": crf, "own_encoder": own_encoder}


def test_every_example_is_tested(arguments: dict[str, list[str]]) -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(arguments)


@pytest.mark.parametrize("name", ["own_dataset", "own_clip", "crf_of_any_network", "own_encoder"])
def test_an_example_runs(
    name: str,
    arguments: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments[name]])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    expected = {
        "own_dataset": "batch (3, 3, 64, 64)",
        "own_clip": "logits (1, 4, 48, 64)",
        "crf_of_any_network": "of the pixels changed their class",
        "own_encoder": "ConvEncoder with maps of 16, 24, 40, 64 channels, joint width 32",
    }
    assert expected[name] in said
    if name == "crf_of_any_network":
        mask = read_mask(tmp_path / "mask.png")
        assert mask.shape == (45, 67) and mask.max() < 3


def test_the_encoder_of_the_example_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own configuration names it: a run, the same again, and masks of other images by the trained WeakCLIP."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    limits = ["data.train_limit=3", "data.val_limit=2", "seeds.masks.crf=null", "pseudo_masks.crf=null"]
    own = ["clip.source=python:own_encoder:build", "seeds.method=cosine"]
    overrides = [word for each in (*limits, *own) for word in ("--set", each)]
    run = tmp_path / "run"
    for stage in ("seeds", "train", "pseudo-masks", "pseudo-masks"):
        assert call(stage, "demo", "--out", run, "--limit-steps", "2", *overrides) == 0
    assert len(list((run / "3_pseudo_masks/masks").iterdir())) == 3
    capsys.readouterr()
    write_png(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8))
    predict = ("predict", run / "2_train", tmp_path / "photo.png", "--out", tmp_path / "masks")
    assert call(*predict) == 2
    assert "pass it yourself: `clip` in Python, or --clip python:MODULE:FUNCTION" in capsys.readouterr().err
    assert call(*predict, "--clip", "python:own_encoder:build") == 0
    assert read_mask(tmp_path / "masks/masks/photo.png").shape == (45, 67)
