"""The benchmark of the label-free signs: masks that are the truth contradict exactly what is wrong with the seeds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from by_path import load_script

from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask

KINDS = ("seeds", "dense", "masks", "truth")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/seed_signs.py")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Objects of classes 1 to 4, three images each; the seed of class k is k pixels too high; as arguments."""
    for label in range(1, 5):
        for number in range(3):
            truth = np.zeros((20, 16), np.uint8)
            truth[8 : 12 + number, 3:11] = label
            dense = truth.copy()
            dense[8 - label : 8, 3:11] = label
            seed = dense.copy()
            seed[:, 3] = 255
            for kind, mask in zip(KINDS, (seed, dense, truth, truth), strict=True):
                write_mask(tmp_path / kind / f"{label}_{number}.png", mask, VOC12.palette)
    return [part for kind in KINDS for part in (f"--{kind}", str(tmp_path / kind))]


def test_masks_that_are_right_contradict_what_is_wrong(
    benchmark: ModuleType, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(folders)
    lines = capsys.readouterr().out.splitlines()
    assert "masks 1.000" in lines[0] and lines[1:3] == ["signs: none", "no warning"]
    for label in range(1, 5):
        (line,) = [line for line in lines if line.startswith(f"class {label}:")]
        contradicted, wrong = line.split(";")[1].split(", ")
        assert float(contradicted) == float(wrong) > 0
    assert lines[-2] == "over the classes: Pearson +1.00, Spearman +1.00 (4)"
    assert lines[-1] == "over images and classes: Pearson +1.00, Spearman +1.00 (12)"


def test_masks_that_lost_a_class_are_named(
    benchmark: ModuleType, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_mask(tmp_path / "masks" / f"2_{number}.png", np.zeros((20, 16), np.uint8), VOC12.palette)
    benchmark.main(folders)
    found = capsys.readouterr().out
    assert "signs: lost classes" in found and "class 2 is gone from 3 of 3 images" in found
    assert "class 2: 3, 3; -, 0." in found


def test_folders_are_named_all_or_a_run(benchmark: ModuleType, folders: list[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(folders[:-2])
