"""The benchmark of several processes: both sides run the same stages, and the plan of each stands beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from by_path import load_script

ROWS = {"seconds": {1: [{"seeds": 4.0}, {"seeds": 9.0}], 2: [{"seeds": 2.0}, {"seeds": 6.0}]}}


def test_speedups_are_medians_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_script("benchmarks/scaling.py")
    monkeypatch.setattr(benchmark, "STAGES", ("seeds",))
    (row,) = benchmark.rows(ROWS["seconds"], {1: {"seeds": 13.0}, 2: {"seeds": 2.0}})
    assert (row["speedup_1"], row["speedup_2"]) == (1.0, 1.75)
    assert (row["error_1"], row["error_2"]) == (100.0, -50.0)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
def test_a_small_pair_is_measured_and_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--images", "6", "--steps", "2", "--set", "train.batch_size=4", "--set", "train.warmup_steps=1"]
    load_script("benchmarks/scaling.py").main(["--out", str(tmp_path), "--pairs", "1", *small])
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["stage"] for row in found["rows"]] == ["seeds", "train", "pseudo_masks", "evaluate"]
    assert all(row[f"planned_{count}"] > 0 for row in found["rows"] for count in (1, 2, 4))
    assert "| seeds |" in capsys.readouterr().out
