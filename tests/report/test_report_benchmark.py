"""The made-up run of the benchmark is one that the report reads, and goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_script

from weakclip.report import read_images, write_report


@pytest.fixture
def benchmark() -> ModuleType:
    return load_script("benchmarks/report.py")


def test_made_up_run_has_a_report_and_resumes(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.fabricate(tmp_path / "stopped", 3)
    for out in ("stopped", "whole"):
        benchmark.fabricate(tmp_path / out, 6)
        write_report(tmp_path / out)
    for file in ("3_pseudo_masks/statistics.jsonl", "5_evaluate/statistics.jsonl"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    run = read_images(tmp_path / "whole")
    assert len(run.images) == 6 and len(run.strips) == 2
    assert all(image.mask_truth and image.confidence for image in run.images)
