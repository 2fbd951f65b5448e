"""The benchmark of AffinityNet's worth goes through, goes on where it was, and its table is of its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_script

import weakclip.pipeline.affinity_stage as stage


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/affinity.py")


def test_it_measures_four_kinds_of_seeds_and_does_nothing_twice(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "data.train_limit=3", "--set", "data.scene_size=64"]
    arguments = ["--out", str(tmp_path), "--seeds", "1", "--limit-steps", "2", *small]
    benchmark.main(arguments)
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"0"} and set(results["0"]) == set(benchmark.ROWS)
    assert all(0 < value <= 1 for value in results["0"].values())
    monkeypatch.setattr(stage, "train_affinity", lambda *_, **__: pytest.fail("trained again"))
    benchmark.main(arguments)
    assert capsys.readouterr().out == first


def test_the_table_has_mean_and_standard_deviation(benchmark: ModuleType) -> None:
    results = {seed: dict.fromkeys(benchmark.ROWS, value) for seed, value in enumerate((0.7, 0.72, 0.74))}
    lines = benchmark.table(results).splitlines()
    assert lines[0] == "| seeds, train | seed 0 | seed 1 | seed 2 | mean ± standard deviation |"
    assert len(lines) == 2 + len(benchmark.ROWS)
    assert all(line.endswith("| 70.0 | 72.0 | 74.0 | 72.0 ± 2.0 |") for line in lines[2:])
