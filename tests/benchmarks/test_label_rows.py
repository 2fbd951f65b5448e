"""The benchmark of long tables measures the folder that it writes, and the memory of a table is that of its images."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_script

from weakclip.datasets import FolderDataset
from weakclip.datasets.label_files import read_label_file

IMAGES = 40


@pytest.fixture
def bench() -> ModuleType:
    return load_script("benchmarks/label_rows.py")


def peak(root: Path) -> int:
    """Bytes that opening a folder takes at its peak."""
    gc.collect()
    tracemalloc.start()
    try:
        assert len(FolderDataset(root)) == IMAGES
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows_of_an_image(bench: ModuleType, tmp_path: Path) -> None:
    for name, rows in (("warm", IMAGES), ("short", 2_000), ("long", 12_000)):
        bench.write_folder(tmp_path / name, rows, IMAGES, "tag")
    peak(tmp_path / "warm")
    short, long = peak(tmp_path / "short"), peak(tmp_path / "long")
    assert long < short + 50_000, f"{short:,} bytes for 2,000 rows, {long:,} for 12,000"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_are_not_held_in_memory(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{ending}"
    line = '{{"image": "{}.jpg", "labels": ["cat"]}}\n' if ending == "jsonl" else "{}.jpg,cat\n"
    path.write_text("image,labels\n" * (ending == "csv") + "".join(map(line.format, range(8_000))))
    tracemalloc.start()
    try:
        read = read_label_file(path)
        assert sum(1 for _ in read.rows) == sum(1 for _ in read.rows) == 8_000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert read.names == {"cat"}


def test_the_benchmark_prints_what_it_measured(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--rows", "100", "--images", "10", "--column", "tag"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 100 and found["images"] == 10
    assert 0 < found["start_mb"] <= found["peak_mb"] and found["seconds"] >= 0
