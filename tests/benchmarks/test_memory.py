"""The benchmark of memory measures what a process holds, and its commands are those of the program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_script

SLEEP = "import time; time.sleep(0.2)"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/memory.py")


def test_the_peak_counts_even_where_it_is_past(benchmark: ModuleType, tmp_path: Path) -> None:
    plain = benchmark.measure([sys.executable, "-c", SLEEP], tmp_path / "log")
    large = benchmark.measure([sys.executable, "-c", f"held = b'x' * (200 << 20); del held; {SLEEP}"], tmp_path / "log")
    assert 199 < large["peak_mib"] - plain["peak_mib"] < 205
    assert plain["seconds"] >= 0.2


def test_command_that_fails_is_no_figure(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 3; see .*log"):
        benchmark.measure([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "why\n"


def test_table_has_a_column_a_size(benchmark: ModuleType) -> None:
    results = {"500": {"seeds": {"peak_mib": 1234.5}, "train": {"peak_mib": 2.0}}, "20000": {"seeds": {"peak_mib": 7}}}
    assert benchmark.table(results).splitlines() == [
        "| command | 500 images | 20,000 images |",
        "|---|---|---|",
        "| seeds | 1,234 | 7 |",
        "| train | 2 |  |",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_is_measured_and_none_twice(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--out={tmp_path / 'out'}", "--images=6", f"--json={tmp_path / 'memory.json'}"]
    benchmark.main(arguments)
    figures = json.loads((tmp_path / "memory.json").read_text())["6"]
    assert list(figures) == list(benchmark.commands(tmp_path, tmp_path))
    assert all(100 < figure["peak_mib"] < 4000 for figure in figures.values())
    capsys.readouterr()
    benchmark.main(arguments)
    assert "6 images," not in capsys.readouterr().out
    assert json.loads((tmp_path / "memory.json").read_text())["6"] == figures
