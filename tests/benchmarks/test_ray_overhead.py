"""The benchmark of Ray beside one process: what it counts, and that both sides run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from by_path import load_script


def test_the_first_tenth_is_left_out(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.png"
        path.touch()
        os.utime(path, (0, 100 if number < 2 else 200 + number))
    assert load_script("benchmarks/ray_overhead.py").seconds_of(tmp_path) == 17


@pytest.mark.slow
def test_a_small_pair_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    load_script("benchmarks/ray_overhead.py").main(["--out", str(tmp_path), "--pairs", "1", "--images", "8"])
    assert len(json.loads((tmp_path / "ray_overhead.json").read_text())["ratios"]) == 1
    assert "Ray takes" in capsys.readouterr().out
