"""The benchmark of the loop: corrected masks are kept, and both sides are scored on the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from by_path import load_script

from weakclip.datasets.images import read_mask
from weakclip.datasets.scenes import ScenesDataset

SMALL = {
    "train.steps": 2,
    "train.batch_size": 2,
    "data.val_limit": 2,
    "pseudo_masks.inference.flip": "false",
}


def test_rounds_of_corrections_are_kept_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = load_script("benchmarks/loop.py")
    changes = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    sizes = ["--seeds", "1", "--rounds", "1", "--images", "6", "--corrected", "2"]
    benchmark.main(["--out", str(tmp_path), *sizes, *changes])
    printed = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in printed.splitlines()[-4:]] == ["worst", "worst", "random", "random"]
    dataset = ScenesDataset("train", size=128, count=6, seed=0)
    for side in ("worst", "random"):
        corrected = json.loads((tmp_path / f"seed0/{side}/corrected1.json").read_text())
        assert len(set(corrected)) == 2
        for name in corrected:
            mask = read_mask(tmp_path / f"seed0/{side}/1/{name}.png")
            assert (mask == dataset.mask(dataset.index_of(name))).all()
    rows = json.loads((tmp_path / "loop.json").read_text())["rows"]
    assert [(row["side"], row["round"]) for row in rows] == [(s, n) for s in ("worst", "random") for n in range(2)]
    assert rows[0]["uncorrected"] == rows[2]["uncorrected"] and rows[0]["rest"] == rows[2]["rest"]
