"""`seeds.method: patch_text`: the stage reads labels alone, and goes on where it stopped, with the same batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import bytes_in

from weakclip.config import RunConfig, load_config, parse_config
from weakclip.datasets import Sample
from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.pipeline import run_stage
from weakclip.seeds import CAM, PatchText


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]]) -> RunConfig:
    return parse_config({**tiny_settings(), "seeds": {"method": "patch_text"}}, origin="test")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the samples that went through together, four at most, as on an accelerator."""
    seen: list[list[str]] = []
    whole = PatchText.cams

    def watched(self: PatchText, samples: Sequence[Sample]) -> list[CAM]:
        seen.append([sample.name for sample in samples])
        return whole(self, samples)

    monkeypatch.setattr(PatchText, "batch_size", property(lambda self: 4))
    monkeypatch.setattr(PatchText, "cams", watched)
    return seen


def test_the_stage_makes_seeds_without_a_pixel_label(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScenesDataset, "mask", lambda *_: pytest.fail("pixel labels were read"))
    run_stage(config, tmp_path, "seeds")
    dataset = ScenesDataset("train", size=64, count=6)
    for index, name in enumerate(dataset.names):
        for folder, more in (("dense", set()), ("masks", {255})):
            found = set(np.unique(read_mask(tmp_path / f"1_seeds/{folder}/{name}.png")).tolist())
            assert found <= {0, *dataset.labels(index)} | more
    assert (tmp_path / "1_seeds/log.jsonl").read_text().count("\n") == 6


def test_a_stage_that_goes_on_has_the_same_batches(
    config: RunConfig, tmp_path: Path, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ScenesDataset("train", size=64, count=6).names
    run_stage(config, tmp_path / "whole", "seeds")
    assert batches == [list(names[:4]), list(names[4:])]

    import weakclip.pipeline.seed_stage as stage

    write, masks = stage.write_mask, tmp_path / "stopped/1_seeds"

    def whole(name: str) -> bool:
        return all((masks / part / f"{name}.png").is_file() for part in ("masks", "dense"))

    def stopped(path: Path, *arguments: Any) -> None:
        if path == masks / f"dense/{names[2]}.png":  # it has one of its two masks; threads finish images in any order
            while not whole(names[0]):
                time.sleep(0.01)
            raise KeyboardInterrupt
        if path.stem in names[4:]:
            raise KeyboardInterrupt
        write(path, *arguments)

    monkeypatch.setattr(stage, "write_mask", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config, tmp_path / "stopped", "seeds")
    monkeypatch.setattr(stage, "write_mask", write)
    kept = {name: (masks / f"masks/{name}.png").stat().st_mtime_ns for name in names if whole(name)}
    assert names[0] in kept
    assert names[2] not in kept
    batches.clear()
    run_stage(config, tmp_path / "stopped", "seeds")
    assert batches == [list(names[:4]), list(names[4:])]
    assert bytes_in(tmp_path / "stopped", "**/*.png") == bytes_in(tmp_path / "whole", "**/*.png")
    for name, time_of in kept.items():
        assert (masks / f"masks/{name}.png").stat().st_mtime_ns == time_of


def test_affinitynet_takes_the_maps_too(config: RunConfig, tmp_path: Path) -> None:
    train = {"steps": 2, "batch_size": 2, "warmup_steps": 1}
    affinity = {"widths": [4, 4, 8, 8, 16, 16, 32], "reductions": [4, 4, 8], "radius": 3, "train": train}
    affinity |= {"augment": {"crop_size": 64}, "walk": {"log_steps": 2}}
    from weakclip.store.keys import plain

    values = plain(config)
    values["seeds"]["affinity"] = affinity
    run_stage(parse_config(values, origin="test"), tmp_path, "seeds")
    assert len(list((tmp_path / "1_seeds/dense").glob("*.png"))) == 6


def test_which_configurations_take_it() -> None:
    methods = {name: load_config(name).seeds.method for name in ("demo", "folder", "voc12", "coco14")}
    assert methods == {"demo": "patch_text", "folder": "patch_text", "voc12": "clip_gradcam", "coco14": "clip_gradcam"}
